use proptest::prelude::*;

use super::*;

/// A chain that runs these commands, one each 100 ms; 0 is a process that only forked.
fn chain(commands: &[u64]) -> Vec<Link> {
    let link = |(at, command): (usize, &u64)| Link {
        alive: true,
        exec_ns: if *command == 0 { 0 } else { 1_000_000_000 + at as u64 * 100_000_000 },
        argv: if *command == 0 { Vec::new() } else { vec![format!("c{command}").into_bytes()] },
        program: FileId { ino: *command, ..FileId::default() },
        loose: *command,
        ..Link::default()
    };
    commands.iter().enumerate().map(link).collect()
}

/// Start, period and living turns.
fn found(commands: &[u64]) -> Option<(usize, usize, usize)> {
    let chain = chain(commands);
    Cycle::find(&chain).map(|cycle| (cycle.start, cycle.period, cycle.turns))
}

#[test]
fn cycles_of_all_kinds() {
    assert_eq!(found(&[1, 1, 1, 1]), Some((0, 1, 4)));
    assert_eq!(found(&[1, 2, 1, 2, 1, 2, 1]), Some((0, 2, 3)));
    // Called from something else, cut off in the middle of a turn.
    assert_eq!(found(&[9, 8, 1, 2, 3, 1, 2, 3, 1, 2]), Some((2, 3, 2)));
    // A command that comes twice within a turn.
    assert_eq!(found(&[1, 1, 2, 1, 1, 2, 1, 1, 2]), Some((0, 3, 3)));
    // What only forked does not count.
    assert_eq!(found(&[1, 0, 2, 1, 0, 2, 1, 0, 2]), Some((0, 2, 3)));
    // The deepest went another way.
    assert_eq!(found(&[1, 2, 1, 2, 1, 2, 7]), Some((0, 2, 3)));
    // Two branches in any order: 1 2 3 is taken most often.
    assert_eq!(found(&[1, 2, 1, 2, 3, 1, 2, 3, 1, 2, 1, 2, 3, 1]), Some((2, 3, 4)));
}

#[test]
fn no_cycle_where_nothing_comes_back() {
    assert_eq!(found(&[]), None);
    assert_eq!(found(&[1]), None);
    assert_eq!(found(&[1, 2, 3, 4, 5]), None);
    assert_eq!(found(&[1, 2, 3, 1, 4, 5]), None);
}

#[test]
fn pace_and_depth_come_from_the_whole_chain() {
    let chain = chain(&[1, 0, 1, 0, 1, 0, 1, 0]);
    let cycle = Cycle::find(&chain).unwrap();
    assert_eq!(cycle.depth, 8);
    // A turn each 200 ms.
    assert!((cycle.turns_per_second - 5.0).abs() < 1e-9);
}

#[test]
fn dead_turns_do_not_count() {
    let mut chain = chain(&[1, 2, 1, 2, 1, 2, 1]);
    chain[2].alive = false;
    assert_eq!(Cycle::find(&chain).unwrap().turns, 2);
}

#[test]
fn growing_arguments_are_the_same_program() {
    let launcher: Vec<Link> = (0..8u32)
        .map(|at| {
            let mut argv = vec![b"l".to_vec(), b"serve".to_vec()];
            argv.extend(vec![b"--again".to_vec(); at as usize]);
            Link {
                alive: true,
                argv_bytes: 8 + 8 * at,
                argv,
                program: FileId { ino: 5, ..FileId::default() },
                loose: u64::from(at) + 1,
                ..Link::default()
            }
        })
        .collect();
    let cycle = Cycle::find(&launcher).unwrap();
    assert_eq!((cycle.start, cycle.period, cycle.turns), (0, 1, 8));
    assert_eq!(cycle.added, [b"--again".to_vec()]);
}

#[test]
fn a_directory_that_is_unknown_once_is_taken_from_another_turn() {
    let mut chain = chain(&[1, 2, 1, 2, 1]);
    chain[3].cwd = b"/x".to_vec();
    let cycle = Cycle::find(&chain).unwrap();
    assert_eq!((cycle.cwd(0), cycle.cwd(1)), (&b""[..], &b"/x"[..]));
}

proptest! {
    #[test]
    fn a_planted_cycle_is_found(
        period in prop::collection::vec(1..50u64, 1..12), turns in 3..12usize, tail in 0..12usize, lead in 0..4usize,
    ) {
        // Another name for each step, so that no shorter period hides in it.
        let period: Vec<u64> = period.iter().enumerate().map(|(at, name)| name * 100 + at as u64).collect();
        let lead_in = (0..lead).map(|at| 1_000_000 + at as u64);
        let body = period.iter().cycle().take(period.len() * turns + tail % period.len()).copied();
        let commands: Vec<u64> = lead_in.chain(body).collect();
        let (start, length, living) = found(&commands).unwrap();
        prop_assert_eq!((start, length), (lead, period.len()));
        prop_assert_eq!(living, turns);
    }

    #[test]
    fn any_chain_is_survived(commands in prop::collection::vec(0..4u64, 0..60)) {
        let chain = chain(&commands);
        if let Some(cycle) = Cycle::find(&chain) {
            prop_assert!(cycle.start + cycle.period < cycle.runs.len());
            prop_assert_eq!(cycle.steps().len(), cycle.period);
            prop_assert_eq!(cycle.calls().count(), cycle.period);
            prop_assert!(cycle.turns <= cycle.runs.len());
        }
    }
}
