//! Where HEAD of a work tree is, and since when: HEAD itself, branches, packed-refs, HEAD's log.

use sensor_proto::internal::v1::{GitFound, GitWanted, ParseAnswer, git_wanted::Of};

/// How HEAD moved, bytes: the first words say what was done, a message is the committer's.
const WHAT: usize = 256;

pub(super) fn answer(content: &[u8], wanted: &GitWanted) -> ParseAnswer {
    ParseAnswer { git: Some(find(content, wanted)), ..Default::default() }
}

/// The same of bytes.
pub(crate) fn find(content: &[u8], wanted: &GitWanted) -> GitFound {
    let mut found = GitFound::default();
    match &wanted.of {
        Some(Of::Ref(_)) => match branch(content) {
            Some(name) => found.branch = name.to_vec(),
            None => found.commit = hash(content).unwrap_or_default(),
        },
        Some(Of::Packed(packed_wanted)) => {
            found.commit = packed(content, &packed_wanted.name).unwrap_or_default();
        }
        Some(Of::Move(_)) => {
            if let Some((at, what)) = moved(content) {
                (found.at, found.what) = (Some(at), what);
            }
        }
        None => {}
    }
    found
}

/// What a process answered that has read foreign bytes: a commit is hexadecimal, a name is short.
pub(crate) fn checked(answer: ParseAnswer) -> Option<GitFound> {
    let found = answer.git?;
    let commit = found.commit.is_empty() || is_hash(&found.commit);
    (commit && found.branch.len() <= NAME && found.what.len() <= WHAT).then_some(found)
}

/// Of a branch, bytes: as the kernel has it for a path.
const NAME: usize = 4096;

/// `ref: refs/heads/main`
fn branch(head: &[u8]) -> Option<&[u8]> {
    Some(head.strip_prefix(b"ref:")?.trim_ascii())
}

/// A commit's, and nothing else.
fn hash(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
    is_hash(text).then(|| text.to_ascii_lowercase())
}

fn is_hash(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit()) && matches!(text.len(), 40 | 64)
}

/// `hash refs/heads/main`
fn packed(text: &[u8], name: &[u8]) -> Option<String> {
    text.split(|byte| *byte == b'\n').find_map(|line| {
        let (commit, rest) = line.split_at_checked(line.iter().position(|byte| *byte == b' ')?)?;
        (rest.trim_ascii() == name).then(|| hash(commit)).flatten()
    })
}

/// Of the last line of HEAD's log: `old new Name <email> seconds zone\tcommit: message`.
fn moved(text: &[u8]) -> Option<(i64, Vec<u8>)> {
    let line = text.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty())?;
    let tab = line.iter().position(|byte| *byte == b'\t')?;
    let head = String::from_utf8_lossy(&line[..tab]);
    let at = head.rsplit(' ').nth(1)?.parse().ok()?;
    let what = &line[tab + 1..];
    Some((at, what[..what.len().min(WHAT)].to_vec()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sensor_proto::internal::v1::{MoveWanted, PackedWanted, RefWanted};

    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn found(content: &[u8], of: Of) -> GitFound {
        let answer = answer(content, &GitWanted { of: Some(of) });
        checked(answer).unwrap()
    }

    #[test]
    fn packed_branches_and_odd_names() {
        let text = format!("# pack-refs\n{COMMIT} refs/heads/main\n^{COMMIT}\n");
        let packed = |name: &str| {
            found(text.as_bytes(), Of::Packed(PackedWanted { name: name.into() })).commit
        };
        assert_eq!(packed("refs/heads/main"), COMMIT);
        assert_eq!(packed("refs/heads/mai"), "");
        let head = |text: &[u8]| found(text, Of::Ref(RefWanted {}));
        assert_eq!(head(b"ref: refs/heads/a b\n").branch, b"refs/heads/a b");
        assert_eq!(head(format!("{COMMIT}\n").as_bytes()).commit, COMMIT);
        assert_eq!(head(b"root:x:0:0"), GitFound::default());
    }

    #[test]
    fn what_cannot_be_is_not_taken() {
        let told = |git| checked(ParseAnswer { git: Some(git), ..Default::default() });
        for commit in ["root:x:0:0", &COMMIT[1..], "../../x"] {
            assert_eq!(told(GitFound { commit: commit.into(), ..Default::default() }), None);
        }
        assert_eq!(told(GitFound { what: vec![0; WHAT + 1], ..Default::default() }), None);
        assert_eq!(told(GitFound { branch: vec![0; NAME + 1], ..Default::default() }), None);
        assert_eq!(checked(ParseAnswer::default()), None);
    }

    proptest! {
        #[test]
        fn any_text(text in prop::collection::vec(any::<u8>(), 0..300)) {
            let name = b"refs/heads/x".to_vec();
            for of in [Of::Ref(RefWanted {}), Of::Packed(PackedWanted { name }), Of::Move(MoveWanted {})] {
                found(&text, of);
            }
        }
    }
}
