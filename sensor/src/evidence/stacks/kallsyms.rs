//! Names of the kernel's functions, from /proc/kallsyms: some 200,000 lines, read as they come.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader},
};

/// For each address the function and the distance from its beginning; where addresses are hidden from us,
/// none.
pub(super) fn resolve(addresses: impl Iterator<Item = u64>) -> HashMap<u64, (String, u64)> {
    let mut asked: Vec<u64> = addresses.collect();
    if asked.is_empty() {
        return HashMap::new();
    }
    asked.sort_unstable();
    asked.dedup();
    match File::open("/proc/kallsyms") {
        Ok(file) => search(BufReader::with_capacity(64 << 10, file), &asked),
        Err(_) => HashMap::new(),
    }
}

/// `asked` in order. Lines `address type name [module]`, in any order.
fn search(mut lines: impl BufRead, asked: &[u64]) -> HashMap<u64, (String, u64)> {
    let mut best: Vec<(u64, String)> = vec![(0, String::new()); asked.len()];
    let mut line = String::new();
    while lines.read_line(&mut line).is_ok_and(|count| count > 0) {
        let mut fields = line.split_ascii_whitespace();
        let start = fields.next().and_then(|text| u64::from_str_radix(text, 16).ok());
        if let (Some(start @ 1..), Some("t" | "T" | "w" | "W"), Some(name)) =
            (start, fields.next(), fields.next())
        {
            // A function reaches to the next one: for most addresses this one is too far below.
            let first = asked.partition_point(|address| *address < start);
            for known in &mut best[first..] {
                if known.0 > start {
                    break;
                }
                *known = (start, name.to_owned());
            }
        }
        line.clear();
    }
    let found = asked.iter().zip(best).filter(|(_, (start, _))| *start > 0);
    found.map(|(address, (start, name))| (*address, (name, address - start))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_function_below() {
        let text = "0000000000001000 T start\n0000000000003000 t later [mod]\n0000000000002000 t middle\n\
                    0000000000002800 d data\nodd\n";
        let found = search(text.as_bytes(), &[0x500, 0x1fff, 0x2900, 0x9000]);
        let is = |at: u64, name: &str, offset: u64| {
            assert_eq!(found.get(&at), Some(&(name.to_owned(), offset)), "{at:x}");
        };
        is(0x1fff, "start", 0xfff);
        is(0x2900, "middle", 0x900);
        is(0x9000, "later", 0x6000);
        assert_eq!(found.get(&0x500), None);
    }
}
