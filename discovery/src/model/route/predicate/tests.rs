use proptest::prelude::*;

use super::*;

/// `GET,POST x-a:1 x-b?=true q`: methods, header fields with `:`, parameters with `?`.
fn predicates(text: &str) -> Predicates {
    let (mut methods, mut headers, mut query) = (Vec::new(), Vec::new(), Vec::new());
    let value = |text: &str| match text {
        "*" => ValuePattern::Present,
        text => text.parse().unwrap(),
    };
    for word in text.split_whitespace() {
        if let Some((name, pattern)) = word.split_once(':') {
            headers.push((name.parse().unwrap(), value(pattern)));
        } else if let Some((name, pattern)) = word.split_once('?') {
            query.push((name.parse().unwrap(), value(pattern)));
        } else {
            methods.extend(word.split(',').map(|name| name.parse::<MethodName>().unwrap()));
        }
    }
    let (headers, query) = (Matches::new(headers).unwrap(), Matches::new(query).unwrap());
    Predicates::new(methods, headers, query).unwrap()
}

#[test]
fn a_name_is_what_a_request_can_have() {
    for (text, fits) in
        [("GET", true), ("M-SEARCH", true), ("get", false), ("", false), ("A B", false)]
    {
        assert_eq!(text.parse::<MethodName>().is_ok(), fits, "{text}");
    }
    assert_eq!("X-Version".parse::<HeaderName>().unwrap().as_str(), "x-version");
    for bad in ["", "a b", "a:", "é", &"a".repeat(MATCH_NAME_BYTES_MAX + 1)] {
        assert!(bad.parse::<HeaderName>().is_err(), "{bad}");
    }
    assert!("größe & mehr".parse::<ParameterName>().is_ok());
    assert!("".parse::<ParameterName>().is_err() && "a\n".parse::<ParameterName>().is_err());
}

#[test]
fn a_value_takes_what_it_says() {
    for (pattern, value, takes) in [
        ("canary", "canary", true),
        ("canary", "Canary", false),
        ("canary", "canary1", false),
        ("", "", true),
        ("~^v[0-9]+$", "v17", true),
        ("~^v[0-9]+$", "x", false),
        ("=~x", "~x", true),
        ("==x", "=x", true),
        ("=x", "x", true),
        ("true", "true", true),
        ("true", "1", false),
    ] {
        let pattern: ValuePattern = pattern.parse().unwrap();
        assert_eq!(pattern.takes(value.as_bytes()), takes, "{pattern} {value}");
    }
    assert!(ValuePattern::Present.takes(b"") && ValuePattern::Present.takes(b"x"));
    for bad in ["~", "~(", "a\r\n", &"a".repeat(MATCH_VALUE_BYTES_MAX + 1)] {
        assert!(bad.parse::<ValuePattern>().is_err(), "{bad}");
    }
}

#[test]
fn a_record_reads_as_it_was_written_and_names_are_told_apart_without_case() {
    let all = predicates("POST,GET,GET x-b:~^v x-a:1 x-c:* q?* p?=~");
    let text = serde_json::to_string(&all).unwrap();
    assert_eq!(
        text,
        r#"{"methods":["GET","POST"],"headers":{"x-a":"1","x-b":"~^v","x-c":true},"query":{"p":"=~","q":true}}"#
    );
    assert_eq!(serde_json::from_str::<Predicates>(&text).unwrap(), all);
    assert_eq!(all.to_string(), "GET|POST x-a=1 x-b=~^v x-c ?p==~ ?q");
    assert_eq!(serde_json::to_string(&Predicates::NONE).unwrap(), "{}");
    assert_eq!(serde_json::from_str::<Predicates>("{}").unwrap(), Predicates::NONE);
    let many: Vec<_> = (0..=MATCHES_MAX).map(|i| format!("\"h{i}\":\"x\"")).collect();
    let many = format!("{{\"headers\":{{{}}}}}", many.join(","));
    let methods: Vec<_> = (0..=METHODS_MAX).map(|i| format!("\"M{i}\"")).collect();
    let methods = format!("{{\"methods\":[{}]}}", methods.join(","));
    for (bad, cause) in [
        (r#"{"headers":{"x-a":"1","X-A":"2"}}"#, "x-a is named twice"),
        (r#"{"query":{"a":false}}"#, "true for any value"),
        (r#"{"headers":{"a":"~("}}"#, "unclosed group"),
        (r#"{"methods":["get"]}"#, "capitals"),
        (&many, "17 is more than the 16"),
        (&methods, "17 is more than the 16"),
    ] {
        let error = serde_json::from_str::<Predicates>(bad).unwrap_err().to_string();
        assert!(error.contains(cause), "{error}");
    }
}

#[test]
fn the_wider_covers_the_narrower_only_where_that_is_sure() {
    for (wide, narrow, covers) in [
        ("", "", true),
        ("", "GET x:1", true),
        ("GET", "", false),
        ("GET,POST", "GET", true),
        ("GET", "GET,POST", false),
        ("x:*", "x:1", true),
        ("x:1", "x:*", false),
        ("x:~^v", "x:v2", true),
        ("x:~^v", "x:w2", false),
        ("x:~^v", "x:~^v", true),
        ("x:~^v", "x:~^v2", false),
        ("x:1", "y:1", false),
        ("x:1 y:1", "x:1", false),
        ("q?*", "q?1 p?1", true),
        ("q?1", "q:1", false),
    ] {
        assert_eq!(predicates(wide).cover(&predicates(narrow)), covers, "{wide} / {narrow}");
    }
}

#[test]
fn two_exclude_each_other_only_where_that_is_sure() {
    for (a, b, exclude) in [
        ("", "GET", false),
        ("GET", "POST", true),
        ("GET,PUT", "POST,PUT", false),
        ("x:1", "x:2", true),
        ("x:1", "y:2", false),
        ("x:1", "x:~2", true),
        ("x:~1", "x:~2", false),
        ("x:*", "x:2", false),
        ("q?1", "q?2", true),
        ("q?1", "q:2", false),
    ] {
        assert_eq!(predicates(a).exclude(&predicates(b)), exclude, "{a} / {b}");
        assert_eq!(predicates(b).exclude(&predicates(a)), exclude, "{b} / {a}");
    }
}

proptest! {
    #[test]
    fn any_value_is_refused_or_reads_back_as_it_is_shown(text in "[=~]{0,2}.{0,12}") {
        if let Ok(pattern) = text.parse::<ValuePattern>() {
            prop_assert_eq!(pattern.to_string().parse(), Ok(pattern.clone()));
            let json = serde_json::to_string(&pattern).unwrap();
            prop_assert_eq!(serde_json::from_str::<ValuePattern>(&json).unwrap(), pattern);
        }
    }

    #[test]
    fn any_bytes_are_refused_or_predicates(text in r#"\{("(methods|headers|query)":(\[("[A-Z]{0,3}",?)*\]|\{("[a-c]{0,2}":("[~=]?.{0,3}"|true|1),?)*\}),?)*\}"#) {
        if let Ok(read) = serde_json::from_str::<Predicates>(&text) {
            let again = serde_json::to_string(&read).unwrap();
            prop_assert_eq!(serde_json::from_str::<Predicates>(&again).unwrap(), read);
        }
    }
}
