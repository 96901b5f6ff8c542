//! A log whose first page is damaged: SQLite reads nothing of it, though all the rest may be there. Every
//! log is made alike, so that the first page of an empty one says where the tables of any other are.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use super::{FILE, ahead, schema};

/// SQLite's default, and so that of every log.
pub(super) const PAGE: usize = 4_096;

/// What is left free on the disk, bytes.
const SPARE: u64 = 64 << 20;

/// A copy that can be read; gone with this.
pub(super) struct Mended(PathBuf);

impl Mended {
    /// Of the file at `aside`, which stays as it is. Fails where there is no room for a copy.
    pub fn new(aside: &Path) -> io::Result<Self> {
        let directory = aside.parent().unwrap_or(aside);
        let length = fs::metadata(aside)?.len();
        let free = rustix::fs::statvfs(directory)?;
        if free.f_bavail.saturating_mul(free.f_frsize) < length + SPARE {
            return Err(io::Error::other("there is no room for a copy"));
        }
        let mended = Self(directory.join(format!("{FILE}.mended")));
        mended.remove();
        fs::copy(aside, mended.path())?;
        let file = File::options().write(true).open(mended.path())?;
        // What is written ahead has the damage as well, where its first page is among it.
        let ahead = fs::read(schema::beside(aside, "-wal").0).unwrap_or_default();
        let mut pages = u32::try_from(length / PAGE as u64).unwrap_or(u32::MAX);
        for commit in ahead::commits(&ahead) {
            for (number, page) in commit.frames.iter().filter(|(number, _)| *number > 1) {
                file.write_all_at(page, u64::from(number - 1) * PAGE as u64)?;
            }
            pages = commit.pages;
        }
        let mut page = schema::first_page(directory)?;
        page.resize(PAGE, 0);
        // https://www.sqlite.org/fileformat2.html, section 1.3: pages in all; none that are free.
        page[28..32].copy_from_slice(&pages.to_be_bytes());
        page[32..40].fill(0);
        file.write_all_at(&page, 0)?;
        Ok(mended)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    fn remove(&self) {
        for suffix in ["", "-wal", "-shm"] {
            // Mostly there is none.
            let _ = fs::remove_file(schema::beside(&self.0, suffix).0);
        }
    }
}

impl Drop for Mended {
    fn drop(&mut self) {
        self.remove();
    }
}
