//! Functions that a runtime compiled, as it tells them to perf: node with `--perf-basic-prof`, python
//! with `-X perf`. Lines of start, size (both hexadecimal) and name; later lines replace earlier ones.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
};

use sensor_proto::internal::v1::{ParseAnswer, Symbol};

use super::elf::NAME_LIMIT;

/// What is read of a file, bytes: a large node program writes some 10 MiB.
const FILE_LIMIT: u64 = 256 << 20;

/// A line that is longer is cut.
const LINE_LIMIT: u64 = 4096;

#[expect(clippy::unnecessary_wraps, reason = "as every decoder here")]
pub(super) fn symbols(file: &File, addresses: &[u64]) -> Result<ParseAnswer, String> {
    Ok(ParseAnswer { symbols: find(file.take(FILE_LIMIT), addresses), ..Default::default() })
}

/// The same of anything that can be read.
pub(crate) fn find(text: impl std::io::Read, addresses: &[u64]) -> Vec<Symbol> {
    let mut asked: Vec<(u64, usize)> =
        addresses.iter().enumerate().map(|(at, address)| (*address, at)).collect();
    asked.sort_unstable();
    let mut found = vec![Symbol::default(); addresses.len()];
    let mut reader = BufReader::new(text);
    let mut line = Vec::new();
    loop {
        line.clear();
        // Whatever cannot be read any more is the end.
        match (&mut reader).take(LINE_LIMIT).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return found,
            Ok(_) => {}
        }
        let Some((start, size, name)) = parse(&line) else { continue };
        let first = asked.partition_point(|(address, _)| *address < start);
        for (address, at) in &asked[first..] {
            if address - start >= size {
                break;
            }
            let name = name[..name.len().min(NAME_LIMIT)].to_vec();
            found[*at] = Symbol { name, offset: address - start };
        }
    }
}

fn parse(line: &[u8]) -> Option<(u64, u64, &[u8])> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut fields = line.splitn(3, |byte| *byte == b' ');
    let mut number = || {
        let text = std::str::from_utf8(fields.next()?).ok()?;
        u64::from_str_radix(text.trim_start_matches("0x"), 16).ok()
    };
    let (start, size) = (number()?, number()?);
    Some((start, size, fields.next()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_line_counts() {
        let text =
            b"1000 20 old\nodd\n1010 10 LazyCompile:*leak /srv/a b.js:7\n0x2000 1 x\n1000 8 new\n";
        let found = find(&text[..], &[0x101f, 0x1007, 0x1020, 0x2000]);
        let names: Vec<&str> =
            found.iter().map(|it| std::str::from_utf8(&it.name).unwrap()).collect();
        assert_eq!(names, ["LazyCompile:*leak /srv/a b.js:7", "new", "", "x"]);
        assert_eq!(found[0].offset, 15);
    }

    proptest! {
        #[test]
        fn any_text(text in prop::collection::vec(any::<u8>(), 0..400), address: u64) {
            let found = find(text.as_slice(), &[address, 0, u64::MAX]);
            prop_assert!(found.len() == 3 && found.iter().all(|it| it.name.len() <= NAME_LIMIT));
        }
    }
}
