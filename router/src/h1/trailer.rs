//! Trailer sections: which of their fields may be sent on.

use super::field::{Field, is_odd_name, is_token_byte, is_value_byte};

/// What is wrong with a trailer section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TrailerError {
    /// A line is not a field.
    Malformed,
    /// It has more bytes than allowed.
    TooLarge,
}

/// Takes out of a complete section, empty line included, the fields that must not come after the
/// content: what frames, routes, authenticates or describes it was decided on without them
/// (RFC 9110 §6.5.1).
pub(super) fn keep_safe_fields(section: &mut Vec<u8>) -> Result<(), TrailerError> {
    let (mut read, mut write) = (0, 0);
    while let Some(len) = memchr::memchr(b'\n', &section[read..]) {
        let next = read + len + 1;
        let line = section[read..next].strip_suffix(b"\r\n").ok_or(TrailerError::Malformed)?;
        if line.is_empty() || may_pass(line)? {
            section.copy_within(read..next, write);
            write += next - read;
        }
        read = next;
    }
    section.truncate(write);
    Ok(())
}

fn may_pass(line: &[u8]) -> Result<bool, TrailerError> {
    let colon = memchr::memchr(b':', line).ok_or(TrailerError::Malformed)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let is_field = !name.is_empty()
        && name.iter().all(|byte| is_token_byte(*byte))
        && value.iter().all(|byte| is_value_byte(*byte));
    if !is_field {
        return Err(TrailerError::Malformed);
    }
    Ok(Field::of(name).may_trail() && !is_odd_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(section: &str, expected: Result<&str, TrailerError>) {
        let mut bytes = section.as_bytes().to_vec();
        let kept = keep_safe_fields(&mut bytes).map(|()| String::from_utf8(bytes).unwrap());
        assert_eq!(kept.as_deref(), expected.as_ref().map(|text| *text), "{section:?}");
    }

    #[test]
    fn fields_about_the_content_pass() {
        let section =
            "Grpc-Status: 0\r\ngrpc-message:\r\nServer-Timing: a;dur=1\r\nETag: \"x\"\r\n\r\n";
        check(section, Ok(section));
    }

    #[test]
    fn fields_that_frame_route_or_authenticate_are_dropped() {
        for name in [
            "Content-Length",
            "transfer-encoding",
            "Host",
            "Authorization",
            "Cookie",
            "Set-Cookie",
            "TE",
            "Connection",
            "Trailer",
            "Content-Type",
            "Cache-Control",
            "X-Forwarded-For",
            "X-Request-Id",
            "Expect",
            "Max-Forwards",
            "Upgrade",
            "X_Real_IP",
            "Forwarded",
            "Date",
            "Keep-Alive",
        ] {
            check(&format!("A: 1\r\n{name}: x\r\nB: 2\r\n\r\n"), Ok("A: 1\r\nB: 2\r\n\r\n"));
        }
    }

    #[test]
    fn a_line_that_is_no_field_is_refused() {
        for line in
            ["a", ":", ": b", "a b: c", "a : b", " a: b", "a: b\0", "a: b\rc", "a: b\x7f", "é: b"]
        {
            check(&format!("A: 1\r\n{line}\r\n\r\n"), Err(TrailerError::Malformed));
        }
        check("A: 1\r\nb: c\n\r\n", Err(TrailerError::Malformed));
    }
}
