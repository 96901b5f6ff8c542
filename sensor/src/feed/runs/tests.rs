use std::io::{Read as _, Write as _};

use super::*;

fn hierarchies() -> Option<Hierarchies> {
    let found = Hierarchies::discover().unwrap();
    if found.unified().is_none() {
        eprintln!("SKIP feed::runs: no cgroup v2 is mounted");
        return None;
    }
    Some(found)
}

fn guest(hierarchies: &Hierarchies) -> Guest {
    Guest {
        run: Run { investigation: "abc-1".into(), incident: "abc".into() },
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        group: hierarchies.path_of(std::process::id()).unwrap(),
    }
}

#[test]
fn only_the_user_of_the_run_and_only_in_its_cgroup() {
    let Some(hierarchies) = hierarchies() else { return };
    let guest = guest(&hierarchies);
    // The peer of a pair is who made it.
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let check = |guest: &Guest| check(guest, &hierarchies, ours.as_fd());
    assert!(check(&guest).is_ok());
    let other = Guest { uid: guest.uid + 1, ..guest.clone() };
    assert_eq!(check(&other).unwrap_err().to_string(), format!("it is uid {}", guest.uid));
    for elsewhere in [guest.group.join("deeper"), "/sensor-elsewhere".into()] {
        let why = check(&Guest { group: elsewhere, ..guest.clone() }).unwrap_err().to_string();
        assert!(why.starts_with("it is in the cgroup "), "{why}");
    }
}

/// What came through, waiting for it.
fn received(way: &OwnedFd) -> (Run, UnixStream) {
    let mut files = [PollFd::new(way, PollFlags::IN)];
    let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
    assert!(poll(&mut files, Some(&patience)).unwrap() > 0, "nobody came");
    let (run, stream) = receive(way.as_fd()).unwrap().unwrap();
    stream.set_nonblocking(false).unwrap();
    (run, stream)
}

#[test]
fn who_is_let_in_is_handed_on_with_its_run_and_goes_with_it() {
    let Some(hierarchies) = hierarchies() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let doors = Doors::default();
    let way = doors.renew().unwrap();
    let guest = guest(&hierarchies);
    let door = doors.open(scratch.path(), guest.clone(), hierarchies.clone()).unwrap();
    let socket = scratch.path().join(SOCKET);
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let mut agent = UnixStream::connect(&socket).unwrap();
    let (run, mut served) = received(&way);
    assert_eq!(run, guest.run);
    agent.write_all(b"hello").unwrap();
    let mut heard = [0; 5];
    served.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");

    // A new `serve` takes over: nobody waits for answers of the last one, and whoever wants to comes again.
    let again = doors.renew().unwrap();
    assert!(receive(way.as_fd()).unwrap().is_none(), "the old way is closed");
    for stream in [&mut agent, &mut served] {
        assert_eq!(stream.read(&mut heard).unwrap_or_default(), 0);
    }
    let mut second = UnixStream::connect(&socket).unwrap();
    let (_, mut second_served) = received(&again);
    drop(door);
    // Also what somebody else may have of it ends with the run.
    for stream in [&mut second, &mut second_served] {
        assert_eq!(stream.read(&mut heard).unwrap_or_default(), 0);
    }
    assert!(UnixStream::connect(&socket).is_err());
}

#[test]
fn a_stranger_is_sent_away_and_connections_are_counted() {
    let Some(hierarchies) = hierarchies() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let doors = Doors::default();
    let way = doors.renew().unwrap();
    let guest = guest(&hierarchies);
    let elsewhere = Guest { group: "/sensor-elsewhere".into(), ..guest.clone() };
    let door = doors.open(scratch.path(), elsewhere, hierarchies.clone()).unwrap();
    let mut stranger = UnixStream::connect(scratch.path().join(SOCKET)).unwrap();
    assert_eq!(stranger.read(&mut [0]).unwrap(), 0);
    drop(door);
    assert_eq!(receive(way.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);

    let scratch = tempfile::tempdir().unwrap();
    let _door = doors.open(scratch.path(), guest, hierarchies).unwrap();
    let connect = || UnixStream::connect(scratch.path().join(SOCKET)).unwrap();
    let mut inside: Vec<_> = (0..OPEN).map(|_| (connect(), received(&way))).collect();
    assert_eq!(connect().read(&mut [0]).unwrap(), 0, "one too many");
    inside.pop();
    inside.push((connect(), received(&way)));
}

#[test]
fn what_is_no_connection_is_an_error() {
    let doors = Doors::default();
    let way = doors.renew().unwrap();
    let way_of_core = doors.way();
    let core = way_of_core.serve.as_ref().unwrap();
    rustix::net::send(core, &[0xff; 40], SendFlags::empty()).unwrap();
    assert!(receive(way.as_fd()).is_err());
    let run = Run { investigation: "a-1".into(), incident: "a".into() };
    rustix::net::send(core, &run.encode_to_vec(), SendFlags::empty()).unwrap();
    assert!(receive(way.as_fd()).is_err());
}
