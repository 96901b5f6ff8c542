//! A file system whose server does not answer any more, as NFS when its server is gone: whoever asks it for
//! something waits until the server ends.

use std::{
    ffi::CString,
    fs::File,
    io::{ErrorKind, Read as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _, process::CommandExt as _},
    },
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::{
    fs::OFlags,
    mount::{MountFlags, MountPropagationFlags},
    thread::UnshareFlags,
};
use tempfile::TempDir;

/// Where the kernel asks.
const DEVICE: &str = "/dev/fuse";

/// Between two looks for a question.
const LOOK: Duration = Duration::from_millis(2);

/// Of the largest question that is answered, bytes: `FUSE_MIN_READ_BUFFER`.
const QUESTION: usize = 8192;

// include/uapi/linux/fuse.h
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;
const ENOSYS: i32 = 38;

const ANSWERS: u8 = 0;
const HANGS: u8 = 1;
const ENDED: u8 = 2;

/// An empty directory, for the processes that are started in it alone. Its server ends with this.
#[derive(Debug)]
pub struct Hung {
    directory: TempDir,
    device: Arc<File>,
    state: Arc<AtomicU8>,
}

impl Hung {
    /// Whether the kernel has what it takes.
    pub fn is_possible() -> bool {
        Path::new(DEVICE).exists()
    }

    /// Answers still.
    pub fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("hung-").tempdir()?;
        let nonblocking = OFlags::NONBLOCK.bits() as i32;
        let device =
            File::options().read(true).write(true).custom_flags(nonblocking).open(DEVICE)?;
        let (device, state) = (Arc::new(device), Arc::new(AtomicU8::new(ANSWERS)));
        let (asked, so) = (Arc::clone(&device), Arc::clone(&state));
        thread::Builder::new().name("hung".into()).spawn(move || serve(&asked, &so))?;
        Ok(Self { directory, device, state })
    }

    /// From now on nobody gets an answer.
    pub fn hang(&self) {
        self.state.store(HANGS, Ordering::Relaxed);
    }

    /// Has the command run in there, in mounts of its own, which end with it.
    pub fn hold(&self, command: &mut Command) -> Result<()> {
        let place = CString::new(self.directory.path().as_os_str().as_bytes())?;
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
            self.device.as_raw_fd()
        );
        let options = CString::new(options).context("no options")?;
        let enter = move || {
            // SAFETY: the child's only thread; nothing else looks at its mounts.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            rustix::mount::mount_change(c"/", private)?;
            let flags = MountFlags::NOSUID | MountFlags::NODEV;
            rustix::mount::mount(c"hung", &*place, c"fuse", flags, &*options)?;
            rustix::process::chdir(&*place)?;
            Ok(())
        };
        // SAFETY: between fork and exec, system calls with texts that are there already.
        unsafe { command.pre_exec(enter) };
        Ok(())
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // The last who has the device open ends the connection, and all who wait go on.
        self.state.store(ENDED, Ordering::Relaxed);
    }
}

/// Answers what it takes to be in an empty directory.
fn serve(device: &File, state: &AtomicU8) {
    let mut question = [0; QUESTION];
    loop {
        let mut device = device;
        let read = match state.load(Ordering::Relaxed) {
            ANSWERS => device.read(&mut question),
            // What nobody has read can be given up by who is killed.
            HANGS => Err(ErrorKind::WouldBlock.into()),
            _ => return,
        };
        match read {
            Ok(length) => {
                if let Some(answer) = answer(&question[..length]) {
                    // Whoever asked may be gone.
                    let _ = device.write_all(&answer);
                }
            }
            // Nobody asks, or has mounted it yet.
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::PermissionDenied) =>
            {
                thread::sleep(LOOK);
            }
            Err(_) => return,
        }
    }
}

fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let number = |at: usize| Some(u32::from_ne_bytes(question.get(at..at + 4)?.try_into().ok()?));
    let (code, unique) = (number(4)?, question.get(8..16)?);
    let (error, body) = match code {
        FORGET | BATCH_FORGET | INTERRUPT => return None,
        INIT => (0, numbers(&[7, 31, 0, 0, 0, 4096, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
        GETATTR => {
            let mut attributes = [0; 26];
            // Inode; mode: a directory of mode 755; links.
            (attributes[4], attributes[19], attributes[20]) = (1, 0o40755, 2);
            (0, numbers(&attributes))
        }
        _ => (-ENOSYS, Vec::new()),
    };
    let length = 16 + body.len() as u32;
    Some([&length.to_ne_bytes(), &error.to_ne_bytes()[..], unique, &body].concat())
}

fn numbers(all: &[u32]) -> Vec<u8> {
    all.iter().flat_map(|one| one.to_ne_bytes()).collect()
}
