//! What kind of answer a client would rather have (RFC 9110 §12.5.1), as far as the router has
//! a choice: a page or JSON.

use super::field::members;
use super::request::Request;

/// A weight of a preference, in thousandths.
const WHOLE: u16 = 1000;

impl Request<'_> {
    /// Whether `Accept` names JSON, and HTML not at all or with a lower weight. Ranges that take
    /// everything say nothing about which of the two.
    pub fn prefers_json(&self) -> bool {
        let accepts = self.headers().filter(|(name, _)| name.eq_ignore_ascii_case(b"accept"));
        prefers_json(accepts.map(|(_, value)| value))
    }
}

fn prefers_json<'a>(values: impl Iterator<Item = &'a [u8]>) -> bool {
    let (mut json, mut html) = (0, 0);
    for member in values.flat_map(members) {
        let mut parts = member.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let range = parts.next().unwrap_or_default();
        let Some(weight) = weight(parts) else { continue };
        let is = |name: &[u8]| range.eq_ignore_ascii_case(name);
        if is(b"application/json") {
            json = weight.max(json);
        } else if is(b"text/html") || is(b"text/*") || is(b"application/xhtml+xml") {
            html = weight.max(html);
        }
    }
    json > html
}

/// The weight among the parameters of a range; none if it is no weight.
pub(crate) fn weight<'a>(mut parameters: impl Iterator<Item = &'a [u8]>) -> Option<u16> {
    let value = parameters.find_map(|parameter| match parameter {
        [b'q' | b'Q', b'=', value @ ..] => Some(value),
        _ => None,
    });
    let Some(value) = value else { return Some(WHOLE) };
    match value {
        [b'0'] | [b'0', b'.'] => Some(0),
        [b'1'] => Some(WHOLE),
        [b'1', b'.', zeros @ ..] if zeros.len() <= 3 => {
            zeros.iter().all(|byte| *byte == b'0').then_some(WHOLE)
        }
        [b'0', b'.', digits @ ..] if digits.len() <= 3 => {
            let all_digits = digits.iter().all(u8::is_ascii_digit);
            let digit = |place: usize| digits.get(place).map_or(0, |byte| u16::from(*byte - b'0'));
            all_digits.then(|| digit(0) * 100 + digit(1) * 10 + digit(2))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn json_is_preferred_when_it_is_named_and_html_is_not_as_welcome() {
        for (accept, expected) in [
            ("", false),
            ("*/*", false),
            ("application/json", true),
            ("APPLICATION/JSON", true),
            ("application/json, text/plain, */*", true),
            ("application/json;q=0", false),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", false),
            ("text/html, application/json", false),
            ("text/html;q=0.8, application/json;q=0.9", true),
            ("text/html;level=1;q=0.85, application/json;v=2; Q=0.9", true),
            ("application/json;q=0.875, text/*;q=0.88", false),
            ("application/json;q=1.000, text/html;q=0.999", true),
            // No weight at all: the member counts for nothing.
            ("application/json;q=2", false),
            ("application/json;q=0.0001", false),
            ("application/json;q=x, application/json;q=0.1", true),
            ("application/problem+json", false),
        ] {
            assert_eq!(prefers_json([accept.as_bytes()].into_iter()), expected, "{accept}");
        }
        let lines: [&[u8]; 2] = [b"text/html;q=0.5", b"application/json"];
        assert!(prefers_json(lines.into_iter()));
    }

    proptest! {
        #[test]
        fn any_value_is_read(value in prop::collection::vec(any::<u8>(), 0..60), q in "[qQ]=[0-9.]{0,6}") {
            prefers_json([&value[..]].into_iter());
            let text = format!("application/json;{q}");
            let weight = weight([q.as_bytes()].into_iter());
            prop_assert_eq!(prefers_json([text.as_bytes()].into_iter()), weight.is_some_and(|w| w > 0));
            prop_assert!(weight.is_none_or(|weight| weight <= WHOLE));
        }
    }
}
