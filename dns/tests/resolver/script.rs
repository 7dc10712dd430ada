//! Runs `tests/data/*.txt`. A file has fixture lines first, then cases: a line `? NAME TYPE
//! OPTIONS` (or `! HEX` for raw bytes), a line `= CODE FLAGS` (or `= forward`, `= silence`), and
//! the records that are expected, each with its section.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType};
use portolan_dns::{Cache, Client, Decision, View, Zone, answer};

use crate::fixture::Fixture;
use crate::message::{Ask, read, text};

struct Case {
    line: usize,
    query: Vec<u8>,
    question: Option<Vec<u8>>,
    client: Client,
    expected: String,
    records: BTreeSet<String>,
}

#[test]
fn every_script_is_answered_as_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut cases = 0;
    let mut wrong = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let (fixture, script) = parse(&text);
        let zone = fixture.zone();
        for case in script {
            cases += 1;
            if let Err(error) = run(&case, &zone) {
                wrong.push(format!("{}:{}: {error}", path.display(), case.line));
            }
        }
    }
    assert!(cases > 50, "only {cases} cases were found");
    assert!(wrong.is_empty(), "{} of {cases}:\n{}", wrong.len(), wrong.join("\n"));
}

fn parse(script: &str) -> (Fixture, Vec<Case>) {
    let mut fixture = Fixture::default();
    let mut cases: Vec<Case> = Vec::new();
    for (line, text) in (1..).zip(script.lines()) {
        let text = text.split_once(" #").map_or(text, |(before, _)| before).trim();
        match text.split_once(' ') {
            _ if text.is_empty() || text.starts_with('#') => {}
            Some(("?", query)) => cases.push(case(line, query)),
            Some(("!", hex)) => {
                let query = bytes_of(hex);
                cases.push(Case { query, question: None, ..case(line, ". A") });
            }
            Some(("=", expected)) => {
                cases.last_mut().unwrap().expected =
                    expected.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
            }
            Some((section @ ("answer" | "authority" | "additional"), record)) => {
                let words: Vec<&str> = record.split_ascii_whitespace().collect();
                let record = format!("{section} {}", words.join(" "));
                assert!(cases.last_mut().unwrap().records.insert(record), "line {line}: twice");
            }
            _ if cases.is_empty() => fixture.add(text),
            _ => panic!("line {line}: {text}"),
        }
    }
    (fixture, cases)
}

fn case(line: usize, query: &str) -> Case {
    let mut words = query.split_ascii_whitespace();
    let mut ask = Ask::new(words.next().unwrap(), type_of(words.next().unwrap()).into());
    let mut client = Client { by_tcp: false, allowed: true };
    for option in words {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        match key {
            "+edns" => ask.edns = Some(value.parse().unwrap()),
            "+version" => ask.version = value.parse().unwrap(),
            "+do" => ask.dnssec_ok = true,
            "+norecurse" => ask.recursion = false,
            "+class" => ask.qclass = value.parse().unwrap(),
            "+opcode" => ask.opcode = value.parse().unwrap(),
            "+questions" => ask.questions = value.parse().unwrap(),
            "+tcp" => client.by_tcp = true,
            "+stranger" => client.allowed = false,
            _ => panic!("line {line}: {option}"),
        }
    }
    Case {
        line,
        query: ask.bytes(),
        question: Some(ask.question()),
        client,
        expected: String::new(),
        records: BTreeSet::new(),
    }
}

fn type_of(word: &str) -> u16 {
    match word.strip_prefix("TYPE") {
        Some(number) => number.parse().unwrap(),
        None => word.parse::<hickory_proto::rr::RecordType>().unwrap().into(),
    }
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect()
}

fn run(case: &Case, zone: &Zone) -> Result<(), String> {
    let cache = Cache::unobserved(1 << 20);
    let view = View { zone, cache: &cache, now: Duration::ZERO };
    let mut reply = Vec::new();
    let decision = answer(&case.query, case.client, &view, &mut fastrand::Rng::new(), &mut reply);
    let (got, records) = match decision {
        Decision::Forward(_) => ("forward".to_owned(), BTreeSet::new()),
        Decision::Drop(_) => ("silence".to_owned(), BTreeSet::new()),
        Decision::Reply(_) | Decision::Refuse(..) => {
            let message = read(&reply);
            check_form(case, &reply, &message)?;
            (summary(&message), records_of(&message))
        }
    };
    if got != case.expected {
        return Err(format!("expected {:?}, got {got:?} with {records:#?}", case.expected));
    }
    if records != case.records {
        return Err(format!("expected {:#?}, got {records:#?}", case.records));
    }
    Ok(())
}

/// What holds for each and every reply.
fn check_form(case: &Case, reply: &[u8], message: &Message) -> Result<(), String> {
    let fail = |what: &str| Err(format!("{what}: {message:?}"));
    if reply[..2] != case.query[..2] {
        return fail("another id");
    }
    if message.metadata.message_type != MessageType::Response {
        return fail("not a response");
    }
    if !message.metadata.recursion_available {
        return fail("RA is not set");
    }
    if message.metadata.recursion_desired != (case.query[2] & 1 != 0) {
        return fail("another RD");
    }
    // The question comes back byte for byte, wherever it could be read.
    match (&case.question, message.queries.len()) {
        (_, 0) => {}
        (Some(question), 1) if reply[12..].starts_with(question) => {}
        _ => return fail("another question"),
    }
    Ok(())
}

fn summary(message: &Message) -> String {
    let code = match message.metadata.response_code.into() {
        0_u16 => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        16 => "BADVERS",
        _ => "another",
    };
    let mut summary = code.to_owned();
    let flags = [
        (message.metadata.authoritative, " aa"),
        (message.metadata.truncation, " tc"),
        (message.edns.is_some(), " opt"),
        (message.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok), " do"),
        (message.queries.is_empty(), " bare"),
    ];
    for (_, word) in flags.iter().filter(|(is_set, _)| *is_set) {
        summary.push_str(word);
    }
    summary
}

fn records_of(message: &Message) -> BTreeSet<String> {
    let sections = [
        ("answer", &message.answers),
        ("authority", &message.authorities),
        ("additional", &message.additionals),
    ];
    sections
        .iter()
        .flat_map(|(section, records)| {
            records.iter().map(move |record| format!("{section} {}", text(record)))
        })
        .collect()
}
