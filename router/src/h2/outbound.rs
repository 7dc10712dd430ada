//! One request to an instance that speaks HTTP/2, as a stream of HTTP/1.1: what is written to it is
//! the request, what is read from it the answer. It ends after one of each.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::ResponseFuture;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, Uri};
use tokio::io::ReadBuf;

use super::intake::Intake;
use super::link::Place;
use super::outflow::Outflow;
use super::response::{self, Garbled, head_len, lines};
use super::{broken, garbled};
use crate::buffer;
use crate::h1::{self, BodyFraming, BodyState};

/// The largest head that is written in pieces.
const HEAD_BYTES_MAX: usize = 128 * 1024;

/// Where the request is.
#[derive(Debug)]
enum Asking {
    /// A part of its head, mostly nothing.
    Head(Vec<u8>),
    Body(Outflow),
    Over,
}

/// Where the answer is.
#[derive(Debug)]
enum Answering {
    /// Nothing was asked.
    Nothing,
    Head(ResponseFuture),
    Body(Intake),
}

/// A request and its answer.
#[derive(Debug)]
pub(crate) struct Outbound {
    asking: Asking,
    answering: Answering,
    is_head: bool,
    place: Place,
}

impl Outbound {
    pub(super) fn new(place: Place) -> Self {
        let asking = Asking::Head(Vec::new());
        Self { asking, answering: Answering::Nothing, is_head: false, place }
    }

    /// Takes a part of the request.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.asking {
            Asking::Head(_) => Poll::Ready(self.write_head(bytes)),
            Asking::Body(outflow) => {
                let taken = ready!(outflow.poll_write(cx, self.place.room(), bytes))?;
                if taken.is_over {
                    self.asking = Asking::Over;
                }
                Poll::Ready(Ok(taken.count))
            }
            Asking::Over => Poll::Ready(Err(garbled(Garbled))),
        }
    }

    fn write_head(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Asking::Head(begun) = &mut self.asking else { return Err(garbled(Garbled)) };
        let before = begun.len();
        if before == 0
            && let Some(len) = head_len(bytes)
        {
            return self.ask(&bytes[..len]).map(|()| len);
        }
        begun.extend_from_slice(bytes);
        match head_len(begun) {
            Some(len) => {
                let mut head = std::mem::take(begun);
                head.truncate(len);
                self.ask(&head).map(|()| len - before)
            }
            None if begun.len() > HEAD_BYTES_MAX => Err(garbled(Garbled)),
            None => Ok(bytes.len()),
        }
    }

    fn ask(&mut self, head: &[u8]) -> io::Result<()> {
        let (request, framing) = request(head, self.place.scheme()).map_err(garbled)?;
        self.is_head = request.method() == Method::HEAD;
        let is_whole = framing == BodyFraming::None;
        let (response, send) = self.place.send(request, is_whole)?;
        self.answering = Answering::Head(response);
        self.asking = match is_whole {
            true => Asking::Over,
            false => {
                let body = BodyState::response(framing, self.place.limits());
                Asking::Body(Outflow::new(send, Some(body)))
            }
        };
        Ok(())
    }

    /// Reads the answer. Its end is that of the stream.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.answering {
            // Whoever writes the request comes here next.
            Answering::Nothing => Poll::Pending,
            Answering::Body(intake) => intake.poll_read(cx, room, false),
            Answering::Head(response) => {
                match response.poll_informational(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(interim)) => {
                        return Poll::Ready(read_interim(&interim.map_err(broken)?, room));
                    }
                    Poll::Ready(None) => {}
                }
                let response = ready!(Pin::new(response).poll(cx)).map_err(broken)?;
                let mut intake = self.read_head(response, room);
                let read = intake.poll_read(cx, room, true);
                self.answering = Answering::Body(intake);
                read
            }
        }
    }

    fn read_head(&self, response: Response<RecvStream>, room: &mut ReadBuf<'_>) -> Intake {
        let (parts, body) = response.into_parts();
        let is_bodiless = self.is_head || matches!(parts.status.as_u16(), 204 | 304);
        let says_length = parts.headers.contains_key(CONTENT_LENGTH);
        let has_ended = body.is_end_stream();
        // Trailers of gRPC come behind a body whose length may be known.
        let is_chunked = !is_bodiless && !has_ended && (!says_length || is_grpc(&parts.headers));
        let mut head = buffer::head();
        let skipped = is_chunked.then_some(CONTENT_LENGTH);
        write_response(parts.status.as_u16(), &parts.headers, skipped.as_ref(), &mut head);
        if is_chunked {
            head.extend_from_slice(b"transfer-encoding: chunked\r\n");
        } else if has_ended && !is_bodiless && !says_length {
            head.extend_from_slice(b"content-length: 0\r\n");
        }
        head.extend_from_slice(b"\r\n");
        let mut intake = Intake::new(body, is_chunked, is_bodiless || has_ended);
        intake.put(&head, room);
        buffer::give_back_head(head);
        intake
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

fn read_interim(interim: &Response<()>, room: &mut ReadBuf<'_>) -> io::Result<()> {
    let mut head = buffer::head();
    write_response(interim.status().as_u16(), interim.headers(), None, &mut head);
    head.extend_from_slice(b"\r\n");
    // Small as they are, there is always room: who reads has made some.
    let fits = head.len() <= room.remaining();
    if fits {
        room.put_slice(&head);
    }
    buffer::give_back_head(head);
    if fits { Ok(()) } else { Err(garbled(Garbled)) }
}

/// Appends the start line and the fields but the skipped one.
fn write_response(
    status: u16,
    headers: &HeaderMap,
    skipped: Option<&http::HeaderName>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(h1::phrase(status).as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in headers.iter().filter(|(name, _)| Some(*name) != skipped) {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes().trim_ascii());
        out.extend_from_slice(b"\r\n");
    }
}

/// A request head as the exchange has written it, for HTTP/2.
fn request(bytes: &[u8], scheme: &Scheme) -> Result<(Request<()>, BodyFraming), Garbled> {
    let shared = Bytes::copy_from_slice(bytes);
    let start = memchr::memchr(b'\n', bytes).ok_or(Garbled)? + 1;
    let mut words = bytes[..start].split(|byte| *byte == b' ');
    let method = Method::from_bytes(words.next().ok_or(Garbled)?).map_err(|_| Garbled)?;
    let target = words.next().ok_or(Garbled)?;
    let mut headers = HeaderMap::with_capacity(response::FIELDS_USUAL);
    let (mut authority, mut framing) = (None, BodyFraming::None);
    for line in lines(&shared, start) {
        let (name, value) = line?;
        if name == HOST {
            authority = Some(Authority::from_maybe_shared(value).map_err(|_| Garbled)?);
        } else if name == TRANSFER_ENCODING {
            framing = BodyFraming::Chunked;
        } else if name == CONTENT_LENGTH {
            framing = response::framing_of(&value)?;
            headers.append(name, value);
        } else if name == TE {
            // The exchange sends no other.
            headers.insert(TE, http::HeaderValue::from_static("trailers"));
        } else if !matches!(name, CONNECTION | UPGRADE) {
            headers.append(name, value);
        }
    }
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(scheme.clone());
    parts.authority = authority;
    parts.path_and_query = Some(PathAndQuery::try_from(target).map_err(|_| Garbled)?);
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Garbled)?;
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = headers;
    Ok((request, framing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_written_as_http_2_has_it() {
        let (request, framing) = request(
            b"POST /a?b HTTP/1.1\r\nHost: web.test:80\r\nX-A: b\r\nConnection: TE\r\n\
              TE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n",
            &Scheme::HTTPS,
        )
        .unwrap();
        assert_eq!(request.uri(), "https://web.test:80/a?b");
        assert_eq!((request.method(), framing), (&Method::POST, BodyFraming::Chunked));
        let fields: Vec<_> = request.headers().iter().collect();
        assert_eq!(fields.len(), 2, "{fields:?}");
        assert_eq!(
            (&request.headers()["x-a"], &request.headers()["te"]),
            (&"b".parse().unwrap(), &"trailers".parse().unwrap())
        );
    }
}
