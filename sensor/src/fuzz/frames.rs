//! What the daemon's processes say to each other.

use std::{cell::LazyCell, fmt::Debug, sync::Arc};

use prost::Message;
use sensor_proto::internal::v1::{Arm, Ask, Disarm, Order, Report, Tell, ask, order::What};
use tokio::{
    io::AsyncWriteExt as _,
    net::UnixStream,
    runtime::{Builder, Runtime},
};

use super::choice;
use crate::{
    feed::{
        access::{self, Groups, Roles},
        frames::split,
    },
    respond::guardian::frame::Inbox,
};

thread_local! {
    static RUNTIME: LazyCell<Option<Runtime>> =
        LazyCell::new(|| Builder::new_current_thread().enable_all().build().ok());
}

pub fn serve(bytes: &[u8]) {
    let (choice, rest) = choice(bytes);
    if choice % 2 == 0 {
        let roles = roles();
        for ask in arrive::<Ask, Tell>(rest) {
            // Nobody is let in without a name or a group, whatever the request says.
            if let Ok(()) = access::admit(&ask, &roles) {
                let nobodys = matches!(ask.what, Some(ask::What::Damage(_)));
                assert!(nobodys || ask.uid == 0 || ask.gids.contains(&GROUP), "{ask:?}");
            }
        }
    } else {
        arrive::<Tell, Ask>(rest);
    }
}

/// The one group whose members may do something.
const GROUP: u32 = 77;

fn roles() -> Roles {
    Roles {
        groups: Groups { readers: Some(GROUP), operators: Some(GROUP), owner: 0 },
        named: Arc::default(),
    }
}

/// The messages that come out of a stream; sent again, they arrive as they are.
fn arrive<In, Out>(bytes: &[u8]) -> Vec<In>
where
    In: Message + Default + Clone,
    Out: Message + Default,
{
    RUNTIME.with(|runtime| {
        let Some(runtime) = &**runtime else { return Vec::new() };
        runtime.block_on(async {
            let Ok((mut near, far)) = UnixStream::pair() else { return Vec::new() };
            let (mut incoming, _) = split::<In, Out>(far);
            let mut found = Vec::new();
            // What fits into a socket's buffer is taken at once.
            if near.write_all(bytes).await.is_ok() {
                drop(near);
                while let Ok(Some(message)) = incoming.next().await {
                    found.push(message);
                }
            }
            assert!(found.len() * 4 <= bytes.len());
            let Ok((near, far)) = UnixStream::pair() else { return Vec::new() };
            let (_, mut outgoing) = split::<Out, In>(near);
            let (mut incoming, _) = split::<In, Out>(far);
            for message in &found {
                assert!(outgoing.send(message).await.is_ok());
                let again = incoming.next().await.ok().flatten();
                assert_eq!(again.map(|it| it.encode_to_vec()), Some(message.encode_to_vec()));
            }
            found
        })
    })
}

pub fn asks() -> Vec<Vec<u8>> {
    let ask = Ask { id: 1, uid: 1000, gids: vec![1, GROUP], ..Ask::default() };
    let tell = Tell { id: 1, ..Tell::default() };
    let frame = |choice: u8, message: Vec<u8>| {
        [&[choice][..], &(message.len() as u32).to_be_bytes(), &message].concat()
    };
    vec![frame(0, ask.encode_to_vec()), frame(1, tell.encode_to_vec())]
}

pub fn guardian(bytes: &[u8]) {
    let (choice, rest) = choice(bytes);
    if choice % 2 == 0 { pieces::<Order>(choice, rest) } else { pieces::<Report>(choice, rest) }
}

/// How a stream is cut into pieces does not matter.
fn pieces<M: Message + Default + PartialEq + Debug>(choice: u8, bytes: &[u8]) {
    let taken = |pieces: &[&[u8]]| {
        let (mut inbox, mut found) = (Inbox::default(), Vec::new());
        for piece in pieces {
            inbox.push(piece);
            loop {
                match inbox.next::<M>() {
                    Ok(Some(message)) => found.push(message),
                    Ok(None) => break,
                    Err(_) => return (found, false),
                }
            }
        }
        (found, true)
    };
    let (one, other) = bytes.split_at(usize::from(choice).min(bytes.len()));
    assert_eq!(taken(&[bytes]), taken(&[one, other]));
}

pub fn orders() -> Vec<Vec<u8>> {
    let arm = Arm { incident: "4k2m".into(), mark: 7, ..Arm::default() };
    let orders = [What::Arm(arm), What::Disarm(Disarm::default())];
    let stream = orders.map(|what| Order { what: Some(what) }.encode_length_delimited_to_vec());
    let report = Report::default().encode_length_delimited_to_vec();
    vec![[&[8][..], &stream.concat()].concat(), [&[1][..], &report].concat()]
}
