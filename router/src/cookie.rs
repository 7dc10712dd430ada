//! The cookies of a request, read as servers do (RFC 6265 §5.4). Knows nothing of what they mean.

/// The values of the cookies of this name in one line, without quotes around them.
pub(crate) fn values<'v>(line: &'v [u8], name: &'v [u8]) -> impl Iterator<Item = &'v [u8]> {
    line.split(|byte| *byte == b';').filter_map(move |pair| {
        let pair = pair.trim_ascii();
        let value = pair.strip_prefix(name)?.strip_prefix(b"=")?;
        let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
        Some(quoted.unwrap_or(value))
    })
}
