//! The terminal as a page that is written again and again, and left as it was found.

use std::{
    future,
    io::{self, Read as _},
    thread,
};

use rustix::{
    process::{Signal, getpid, kill_process},
    termios::{
        LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
    },
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{error::CliError, out};

/// A screen of its own, the cursor hidden, long lines cut at the edge; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// What happened to the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is to be written again: the terminal has another size, or shows it again.
    Redraw,
    Quit,
}

/// The page; dropping it gives the terminal back.
pub struct Screen {
    keyboard: Option<Keyboard>,
    interrupt: Signals,
    terminate: Signals,
    hang_up: Signals,
    stop: Signals,
    resize: Signals,
}

type Signals = tokio::signal::unix::Signal;

impl Screen {
    /// Takes standard output, which is a terminal, and the keyboard if there is one.
    pub fn enter() -> Result<Self, CliError> {
        let listen = |kind| signal(kind).map_err(CliError::Runtime);
        let screen = Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
            stop: listen(SignalKind::from_raw(libc::SIGTSTP))?,
            resize: listen(SignalKind::window_change())?,
            keyboard: Keyboard::take(),
        };
        out::print(ENTER)?;
        Ok(screen)
    }

    /// Waits for something to happen.
    pub async fn event(&mut self) -> Result<Event, CliError> {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => return Ok(Event::Quit),
                _ = self.terminate.recv() => return Ok(Event::Quit),
                _ = self.hang_up.recv() => return Ok(Event::Quit),
                _ = self.resize.recv() => return Ok(Event::Redraw),
                _ = self.stop.recv() => {
                    self.sleep()?;
                    return Ok(Event::Redraw);
                }
                key = Keyboard::key(self.keyboard.as_mut()) => match key {
                    Some(b'q') => return Ok(Event::Quit),
                    Some(_) => {}
                    // It is gone; signals are left.
                    None => self.keyboard = None,
                },
            }
        }
    }

    /// Gives the terminal back while a shell has it: Ctrl-Z.
    fn sleep(&mut self) -> Result<(), CliError> {
        out::print(LEAVE)?;
        let cooked = self.keyboard.as_ref().map(|keyboard| &keyboard.before);
        let raw = cooked.map(exchange).transpose()?;
        // Goes on here when the shell says so.
        kill_process(getpid(), Signal::STOP).map_err(io::Error::from)?;
        raw.map(|raw| exchange(&raw)).transpose()?;
        out::print(ENTER)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Fails where nobody is left to see it.
        let _ = out::print(LEAVE);
    }
}

/// Writes the page over the one before, as much of it as a [`Screen`] has room for.
pub fn show(page: &str) -> Result<(), CliError> {
    let rows = tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_row));
    let room = if rows == 0 { usize::MAX } else { rows };
    let lines: Vec<&str> = page.lines().take(room).collect();
    // Each line clears what was behind it; nothing is ever blank in between.
    out::print(&format!("\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\n")))
}

/// Sets the modes of the terminal that is typed on; those that it had.
fn exchange(modes: &Termios) -> io::Result<Termios> {
    let before = tcgetattr(io::stdin())?;
    tcsetattr(io::stdin(), OptionalActions::Now, modes)?;
    Ok(before)
}

/// Keys one by one, and not shown; dropping it makes the terminal what it was.
struct Keyboard {
    keys: mpsc::Receiver<u8>,
    before: Termios,
}

impl Keyboard {
    /// None where standard input is no terminal.
    fn take() -> Option<Self> {
        let mut raw = tcgetattr(io::stdin()).ok()?;
        // Ctrl-C and Ctrl-Z stay signals.
        raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        let before = exchange(&raw).ok()?;
        let (sender, keys) = mpsc::channel(1);
        // Waits in its read when nobody wants keys any more; that ends with the program.
        thread::spawn(move || {
            let keys = io::stdin().lock().bytes().map_while(Result::ok);
            for key in keys {
                if sender.blocking_send(key).is_err() {
                    return;
                }
            }
        });
        Some(Self { keys, before })
    }

    /// The next key; `None`: there will be none.
    async fn key(keyboard: Option<&mut Self>) -> Option<u8> {
        match keyboard {
            Some(keyboard) => keyboard.keys.recv().await,
            None => future::pending().await,
        }
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        // Fails where the terminal has gone.
        let _ = exchange(&self.before);
    }
}
