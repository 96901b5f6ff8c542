//! What `sensor parse` reads, and what core reads of a process' memory and mappings.

use std::collections::HashSet;

use sensor_proto::internal::v1::{
    GitWanted, IndexWanted, LinesWanted, MoveWanted, PackagesWanted, PackedWanted, ParseAnswer,
    RefWanted, SymbolsWanted, git_wanted::Of,
};

use super::choice;
use crate::evidence::{
    parse::{elf, git_head, git_index, lines, packages, perf_map},
    stacks::{
        maps,
        sample::Samples,
        standing::{ends_with_call, kernel, registers, walk},
    },
};

/// Longest name that an answer holds, bytes.
const NAME: usize = 512;

pub fn elf(bytes: &[u8]) {
    let wanted = SymbolsWanted {
        offsets: vec![0, 0x40, 0x1000, 0x1234, u64::MAX],
        names: vec!["_PyRuntime".into()],
        base: 0,
    };
    if let Ok(answer) = elf::find(bytes, &wanted) {
        assert_eq!((answer.symbols.len(), answer.places.len()), (5, 1));
        assert!(answer.symbols.iter().all(|symbol| symbol.name.len() <= NAME));
    }
}

/// A header with one segment, a table of one symbol and its name.
pub fn elfs() -> Vec<Vec<u8>> {
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let half = |file: &mut Vec<u8>, values: &[u16]| {
        file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    };
    let word = |file: &mut Vec<u8>, values: &[u32]| {
        file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    };
    let long = |file: &mut Vec<u8>, values: &[u64]| {
        file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    };
    // Shared object for x86-64; segments at 64, sections at 184.
    half(&mut file, &[3, 62]);
    word(&mut file, &[1]);
    long(&mut file, &[0, 64, 184]);
    word(&mut file, &[0]);
    half(&mut file, &[64, 56, 1, 64, 3, 2]);
    word(&mut file, &[1, 5]);
    long(&mut file, &[0, 0x1000, 0x1000, 0x1000, 0x1000, 0x1000]);
    // At 120: no symbol, then one function at 0x1000 of 0x100 bytes; at 168 the names.
    long(&mut file, &[0, 0, 0]);
    word(&mut file, &[1]);
    file.extend([0x12, 0]);
    half(&mut file, &[1]);
    long(&mut file, &[0x1000, 0x100]);
    file.extend(b"\0spin_for_ever\0\0");
    let section = |file: &mut Vec<u8>, kind: u32, offset: u64, size: u64, link: u32, entry: u64| {
        word(file, &[0, kind]);
        long(file, &[0, 0, offset, size]);
        word(file, &[link, 1]);
        long(file, &[8, entry]);
    };
    section(&mut file, 0, 0, 0, 0, 0);
    section(&mut file, 2, 120, 48, 2, 24);
    section(&mut file, 3, 168, 16, 0, 0);
    vec![file]
}

pub fn stack(bytes: &[u8]) {
    let (choice, rest) = choice(bytes);
    match choice % 3 {
        0 => {
            let found = maps::parse(rest);
            assert!(found.len() <= rest.len());
            assert!(maps::find(&found, 0x5590).is_none_or(|map| map.holds(0x5590)));
            let _ = (kernel(rest), registers(rest), ends_with_call(rest));
        }
        1 => {
            let words: Vec<u64> =
                rest.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word)).collect();
            let code = |address: u64| address % 16 == 1;
            let (frames, _) = walk(&words, 0x7000, code, |address| address % 3 == 0);
            assert!(frames.len() < 80 && frames.into_iter().all(code));
        }
        _ => {
            let mut samples = Samples::default();
            let pid =
                rest.get(8..12).and_then(|it| it.try_into().ok()).map_or(0, u32::from_ne_bytes);
            samples.add(rest, &HashSet::from([pid]));
            assert!(samples.chains.len() <= 1);
            assert!(samples.chains.keys().all(|chain| chain.user.len() + chain.kernel.len() < 80));
        }
    }
}

pub fn stacks() -> Vec<Vec<u8>> {
    let words = |values: &[u64]| -> Vec<u8> {
        values.iter().flat_map(|value| value.to_ne_bytes()).collect()
    };
    let maps =
        b"\x005590a000-5590b000 r-xp 00001000 08:01 77   /srv/a b\n[<0>] do_wait+0x55/0xa0\n";
    let chain = [&[1][..], &words(&[7, 0x7020, 0x11, 9, 0x7038, 0x21, 0, 0, 0x31, 0])].concat();
    let header = [9_u32.to_ne_bytes(), [2, 0, 56, 0], 7_u32.to_ne_bytes(), 8_u32.to_ne_bytes()];
    let sample = [&[2][..], &header.concat(), &words(&[4, -128_i64 as u64, 5, -512_i64 as u64, 6])];
    vec![maps.to_vec(), b"\x00-1 0x7ffc0010 0x5590\n".to_vec(), chain, sample.concat()]
}

const NOW: i64 = 1_795_819_505;

fn bounded(answer: &ParseAnswer) {
    assert!(answer.lines.len() <= 200 && answer.packages.len() <= 200);
    assert!(answer.lines.iter().all(|line| line.repeats > 0 && line.text.len() <= 1024));
    assert!(answer.packages.iter().all(|change| !change.what.is_empty()));
}

pub fn lines(bytes: &[u8]) {
    let (choice, text) = choice(bytes);
    let wanted = LinesWanted { since: NOW - 600, now: NOW, offset_s: 3600, journal: false };
    match choice % 4 {
        0 => bounded(&lines::select(lines::plain(text, &wanted), &wanted, false)),
        1 => bounded(&lines::select(lines::entries(text), &wanted, false)),
        2 => {
            let wanted = PackagesWanted { since: 0, now: NOW, offset_s: 0 };
            bounded(&packages::find(text, &wanted));
        }
        _ => {
            let found = perf_map::find(text, &[0x1000, 0x1fff, u64::MAX]);
            assert!(found.len() == 3 && found.iter().all(|symbol| symbol.name.len() <= NAME));
        }
    }
}

pub fn texts() -> Vec<Vec<u8>> {
    [
        "\x002026-11-27 22:40:00 ERROR job 1 failed\n  at line 7\nNov 27 23:41:00 x\n",
        "\x00h - - [27/Nov/2026:22:45:05 +0000] \"GET /\" 200\n1795819500.5 x\n",
        "\x01{\"__REALTIME_TIMESTAMP\":\"1795819400123456\",\"PRIORITY\":\"3\",\"MESSAGE\":[106,255]}\n",
        "\x022026-11-27 22:45:05 upgrade nodejs:amd64 18.1 20.2\n",
        "\x022026-11-27 22:45:07|remove |nodejs|20.2|\n[2026-11-27T22:45:08+0000] [ALPM] upgraded a\n",
        "\x031000 20 LazyCompile:*leak /srv/a.js:7\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

pub fn git(bytes: &[u8]) {
    let (choice, rest) = choice(bytes);
    if choice % 2 == 0 {
        let wanted = IndexWanted { sha256: choice % 4 == 2 };
        if let Ok(answer) = git_index::find(rest, wanted) {
            assert!(answer.entries.len() <= rest.len());
            assert!(answer.entries.iter().all(|entry| entry.path.len() <= 4096));
        }
        return;
    }
    let name = rest.iter().copied().take(usize::from(choice)).collect();
    for of in [Of::Ref(RefWanted {}), Of::Packed(PackedWanted { name }), Of::Move(MoveWanted {})] {
        let git = Some(git_head::find(rest, &GitWanted { of: Some(of) }));
        assert!(git_head::checked(ParseAnswer { git, ..Default::default() }).is_some());
    }
}

pub fn repositories() -> Vec<Vec<u8>> {
    let mut index = b"\x00DIRC\0\0\0\x02\0\0\0\x01".to_vec();
    let words: [u32; 10] = [1, 2, 3, 4, 5, 6, 0o100_644, 0, 0, 3];
    index.extend(words.iter().flat_map(|word| word.to_be_bytes()));
    index.extend([7; 20]);
    index.extend(b"\x00\x04a.js\0\0\0\0\0\0");
    let log = b"\x010 1 A <a@b> 1795819505 +0000\tcommit: x\n";
    let head = b"\x01ref: refs/heads/main\n".to_vec();
    let packed = b"\x0f0123456789abcdef0123456789abcdef01234567 refs/heads/main\n".to_vec();
    vec![index, log.to_vec(), head, packed]
}
