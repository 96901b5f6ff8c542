//! A culprit's project as the rules of diagnosis read it: whatever stands in its files, what is said is
//! harmless, has no secrets, and is short.

use std::path::Path;

use prost::Message as _;
use sensor_proto::internal::v1::{ParseAnswer, PassageWanted, passage_wanted::Of};

use super::{
    choice,
    records::harmless,
    text::{SECRET, contains, redactor},
};
use crate::{
    detect::Finding,
    diagnose::{Answer, Case, Files, Found, Link, diagnose},
    evidence::parse::{self, passage},
    lineage::ProcessKey,
    proto,
};

/// Turns that repeat, each line `directory: argument|argument`.
const TURNS: [&[&str]; 5] = [
    &["/w: node|/usr/bin/npm|test", "/w: sh|-c|cd web && npm test", "/w/web: npm|test"],
    &["/w: node|/usr/bin/npm|run|a", "/w: sh|-c|npm run a"],
    &["/w: make|-C|sub|all", "/w/sub: /bin/sh|-c|cd .. && make"],
    &["/w: /bin/sh|.git/hooks/post-commit", "/w: git|commit|-m|x"],
    &["/w: /bin/sh|./one.sh", "/w: python3|two.py"],
];

/// The same file wherever one looks, or every second time none.
struct Tree<'a> {
    content: &'a [u8],
    /// What the process that reads it answers; none: the truth.
    told: Option<&'a [u8]>,
    sparse: bool,
    asked: u32,
}

impl Files for Tree<'_> {
    fn find(&mut self, _: &Path, wanted: Of) -> Answer {
        self.asked += 1;
        let evidence = format!("e{}", self.asked);
        if self.sparse && self.asked % 2 == 1 {
            return Answer { evidence, found: Found::Absent };
        }
        let wanted = PassageWanted { of: Some(wanted) };
        let size = self.content.len();
        let passage = match self.told {
            // One's own answers always pass.
            None => match passage::checked(passage::answer(self.content, &wanted), &wanted, size) {
                Ok(passage) => passage,
                Err(()) => panic!("{wanted:?}"),
            },
            Some(told) => ParseAnswer::decode(told)
                .ok()
                .and_then(|answer| passage::checked(answer, &wanted, size).ok().flatten()),
        };
        Answer { evidence, found: Found::File(passage) }
    }
}

/// What comes back from a process that has read foreign bytes, and may be theirs by now.
pub fn answer(bytes: &[u8]) {
    let mut link = bytes;
    while let Ok(Some(message)) = parse::receive(&mut link) {
        if contains(&message, SECRET) {
            return;
        }
        explain(&[], Some(&message), false, TURNS[0]);
        explain(&[0; 512], Some(&message), false, TURNS[message.len() % TURNS.len()]);
    }
}

pub fn answers() -> Vec<Vec<u8>> {
    let passage = b"\x5a\x17\x08\x02\x12\x0bcd web && npm test\x1a\x04test\x20\x01";
    let framed = |message: &[u8]| [&(message.len() as u32).to_be_bytes(), message].concat();
    vec![framed(passage), framed(b"\x1a\x01x"), b"\xff\xff\xff\xffx".to_vec()]
}

pub fn run(bytes: &[u8]) {
    let (choice, rest) = choice(bytes);
    if contains(rest, SECRET) {
        return;
    }
    let content = [rest, b"\n\tsh one.sh make npm API_KEY=", SECRET, b"\n"].concat();
    // Of JSON nothing is left with something behind it.
    let json = serde_json::from_slice::<serde_json::Value>(rest).is_ok();
    let content = if json { rest } else { &content };
    // The last choice: the command itself is foreign.
    let own: Vec<String> = rest.split(|byte| *byte == b'\n').take(3).map(line).collect();
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let turn = TURNS.get(usize::from(choice % 6)).copied().unwrap_or(&own);
    explain(content, None, choice >= 128, turn);
}

/// Whatever it reads or is told, what a diagnosis says is harmless.
fn explain(content: &[u8], told: Option<&[u8]>, sparse: bool, turn: &[&str]) {
    let lines = turn.iter().cycle().take(turn.len() * 4);
    let chain: Vec<Link> = (100..).zip(lines).map(|(pid, line)| link(pid, line)).collect();
    let mut files = Tree { content, told, sparse, asked: 0 };
    let redactor = redactor();
    let finding = finding();
    let mut case = Case {
        finding: &finding,
        chain: &chain,
        chain_evidence: "e0",
        files: &mut files,
        redactor: &redactor,
    };
    let told = diagnose(&mut case);
    assert!((0.0..=1.0).contains(&told.confidence));
    for text in [&told.cause, &told.remedy] {
        harmless(text);
        assert!(!contains(text.as_bytes(), SECRET), "{text}");
        assert!(text.len() < 16 << 10, "{} bytes", text.len());
    }
    assert!(told.evidence.len() <= 1 + files.asked as usize);
}

fn line(bytes: &[u8]) -> String {
    format!("/w: {}", String::from_utf8_lossy(bytes))
}

fn link(pid: u32, line: &str) -> Link {
    let (cwd, argv) = line.split_once(": ").unwrap_or_default();
    let argv: Vec<Vec<u8>> = argv.split('|').map(|part| part.as_bytes().to_vec()).collect();
    Link {
        key: ProcessKey::new(pid, 7),
        alive: true,
        exec_ns: u64::from(pid) * 100_000_000,
        argv_bytes: argv.iter().map(|part| part.len() as u32 + 1).sum(),
        exe: argv.first().cloned().unwrap_or_default(),
        argv,
        cwd: cwd.as_bytes().to_vec(),
        ..Link::default()
    }
}

fn finding() -> Finding {
    Finding {
        kind: proto::Kind::Recursion,
        rule: "R1",
        culprit: None,
        group: None,
        leaf: None,
        contain: true,
        confidence: 0.99,
        at_ns: 1,
        measures: Vec::new(),
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    [
        "\0{\n \"scripts\": {\n  \"test\": \"cd web && npm test\"\n }\n}",
        "\x01{\"scripts\": {\"prea\": \"x\", \"a\": \"npm run a\", \"prepare\": \"npm link\"}}",
        "\x02V := x\n.PHONY: all\nall: dep ; echo one\n\techo two \\\n\t  three\n\t@$(MAKE) -C sub all\n",
        "\x03#!/bin/sh\n# git commit\ngit commit --allow-empty -q -m x\n",
        "\x04#!/bin/sh\npython3 two.py \"$0\"\n./one.sh\n",
        "\x05make|-j|-C|a|--file=x.mk|V=1|all\nnode|/usr/bin/npm|--prefix=web|run|b\n",
        "\u{80}{\"scripts\": {\"test\": \"npm test\"}}",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
