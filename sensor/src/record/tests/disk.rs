//! A disk below SQLite that loses power: what was not synced is dropped, torn at sectors and reordered.
//! It can also be full, or fail, for a while.
//!
//! A layer over SQLite's own file system layer (<https://sqlite.org/vfs.html>), for databases in the
//! directories of a [`Disk`]. Files, locks and the shared memory of the write-ahead log are the real
//! ones, so that the code under test takes the same way as always; beside them, the layer remembers for
//! each file what a disk would hold for certain, and what has been written since the last sync.

use std::{
    collections::HashMap,
    ffi::{CStr, c_char, c_int, c_void},
    fs,
    path::{Path, PathBuf},
    ptr, slice,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use rusqlite::ffi::{self, sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs};

/// The smallest piece that a disk writes as a whole.
const SECTOR: usize = 512;

const NAME: &CStr = c"sensor-test-disk";

/// Numbers that look random and are the same each time for the same seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// Something that was written and not synced.
#[derive(Clone, Debug)]
enum Op {
    Write { at: usize, bytes: Vec<u8> },
    Truncate { size: usize },
}

impl Op {
    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Write { at, bytes } => {
                let end = at + bytes.len();
                if to.len() < end {
                    to.resize(end, 0);
                }
                to[*at..end].copy_from_slice(bytes);
            }
            Self::Truncate { size } => to.truncate(*size),
        }
    }

    /// The sectors of which it consists, as far as they are separate to the disk.
    fn pieces(&self) -> Vec<Self> {
        let Self::Write { at, bytes } = self else { return vec![self.clone()] };
        let (mut pieces, mut from) = (Vec::new(), 0);
        while from < bytes.len() {
            let room = SECTOR - (at + from) % SECTOR;
            let to = (from + room).min(bytes.len());
            pieces.push(Self::Write { at: at + from, bytes: bytes[from..to].to_vec() });
            from = to;
        }
        pieces
    }
}

/// One file as the disk has it.
#[derive(Clone, Debug, Default)]
struct Modelled {
    durable: Vec<u8>,
    pending: Vec<Op>,
    /// Its name is certain to be in the directory.
    named: bool,
    /// It was removed, and the removal is not certain yet.
    removed: bool,
}

impl Modelled {
    /// What is there after the power came back; none: not even the name.
    fn after_power_loss(&self, dice: &mut Dice) -> Option<Vec<u8>> {
        if (!self.named && dice.one_in(2)) || (self.removed && dice.one_in(2)) {
            return None;
        }
        // In quarters: from a disk that wrote nothing yet to one that wrote everything.
        let kept = dice.below(5);
        let mut pieces: Vec<Op> = self.pending.iter().flat_map(Op::pieces).collect();
        pieces.retain(|_| dice.below(4) < kept);
        // In any order, half of the time.
        if dice.one_in(2) {
            for at in (1..pieces.len()).rev() {
                pieces.swap(at, dice.below(at as u64 + 1) as usize);
            }
        }
        let mut content = self.durable.clone();
        for piece in &pieces {
            piece.apply(&mut content);
        }
        Some(content)
    }
}

/// What goes wrong on purpose.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trouble {
    /// Writes and syncs fail with this code of SQLite from this operation on …
    pub code: c_int,
    pub from: u64,
    /// … until this one.
    pub until: u64,
}

#[derive(Default)]
struct State {
    files: HashMap<PathBuf, Modelled>,
    /// Writes, syncs and the like so far.
    operations: u64,
    /// Power is lost at this operation.
    power_lost_at: u64,
    dice: Option<Dice>,
    /// What each file holds afterwards, once it happened.
    remains: Option<HashMap<PathBuf, Option<Vec<u8>>>>,
    trouble: Trouble,
    numbers_are_lost: bool,
}

impl State {
    /// Counts an operation that changes the disk; an error when it is to fail.
    fn operate(&mut self) -> Result<(), c_int> {
        self.operations += 1;
        if self.operations == self.power_lost_at {
            self.lose_power();
        }
        let Trouble { code, from, until } = self.trouble;
        if (from..until).contains(&self.operations) { Err(code) } else { Ok(()) }
    }

    fn lose_power(&mut self) {
        if self.remains.is_some() {
            return;
        }
        let Some(mut dice) = self.dice.take() else { return };
        let mut files: Vec<_> = self.files.iter().collect();
        files.sort_by_key(|(path, _)| path.as_path());
        let remains = files
            .into_iter()
            .map(|(path, file)| (path.clone(), file.after_power_loss(&mut dice)))
            .collect();
        self.remains = Some(remains);
    }

    fn sync_directory(&mut self) {
        self.files.retain(|_, file| !file.removed);
        for file in self.files.values_mut() {
            file.named = true;
        }
    }
}

/// A directory on such a disk; gone when this value is.
pub struct Disk {
    directory: PathBuf,
    state: Arc<Mutex<State>>,
}

fn disks() -> &'static Mutex<HashMap<PathBuf, Arc<Mutex<State>>>> {
    static DISKS: OnceLock<Mutex<HashMap<PathBuf, Arc<Mutex<State>>>>> = OnceLock::new();
    DISKS.get_or_init(Mutex::default)
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The name of the layer, for files in a directory of a [`Disk`].
pub fn below(path: &Path) -> Option<&'static CStr> {
    let known = locked(disks()).contains_key(path.parent()?);
    known.then_some(NAME)
}

impl Disk {
    pub fn new(directory: &Path) -> Self {
        register();
        let state = Arc::new(Mutex::new(State::default()));
        locked(disks()).insert(directory.to_owned(), Arc::clone(&state));
        Self { directory: directory.to_owned(), state }
    }

    /// Power will be lost at the so-and-so-manieth operation from now.
    pub fn plan_power_loss(&self, operations: u64, dice: Dice) {
        let mut state = locked(&self.state);
        state.power_lost_at = state.operations + operations;
        state.numbers_are_lost = dice.clone().one_in(2);
        state.dice = Some(dice);
        state.remains = None;
    }

    /// Power is lost now, if it has not been yet.
    pub fn lose_power(&self) {
        locked(&self.state).lose_power();
    }

    pub fn has_lost_power(&self) -> bool {
        locked(&self.state).remains.is_some()
    }

    /// So many operations from now, and so many of them, fail.
    pub fn plan_trouble(&self, code: c_int, operations: u64, count: u64) {
        let mut state = locked(&self.state);
        let from = state.operations + operations;
        state.trouble = Trouble { code, from, until: from.saturating_add(count) };
    }

    pub fn end_trouble(&self) {
        locked(&self.state).trouble = Trouble::default();
    }

    /// The machine starts again: the directory holds what the loss of power left. Nobody may have a file
    /// open.
    pub fn restart(&self) {
        let mut state = locked(&self.state);
        let remains = state.remains.take().unwrap();
        state.files.clear();
        for entry in fs::read_dir(&self.directory).unwrap() {
            let path = entry.unwrap().path();
            if path.to_str().unwrap().ends_with("-shm") {
                fs::remove_file(path).unwrap();
            } else if path.ends_with("log.numbers") {
                // Not SQLite's, and no part of the model: it may be there or not.
                if state.numbers_are_lost {
                    fs::remove_file(path).unwrap();
                }
            } else {
                assert!(remains.contains_key(&path), "{} is unknown", path.display());
            }
        }
        for (path, content) in remains {
            match content {
                Some(durable) => {
                    fs::write(&path, &durable).unwrap();
                    let file = Modelled { durable, named: true, ..Modelled::default() };
                    state.files.insert(path, file);
                }
                None => match fs::remove_file(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        panic!("{error}")
                    }
                    _ => {}
                },
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        locked(disks()).remove(&self.directory);
    }
}

// ---- the layer ----

/// What SQLite takes for its file; the real one follows it in memory.
#[repr(C)]
struct Layer {
    base: sqlite3_file,
    real: *mut sqlite3_file,
    /// From `Box::into_raw`; null where the file is not modelled.
    open: *mut Open,
}

struct Open {
    state: Arc<Mutex<State>>,
    path: PathBuf,
    /// SQLite syncs the directory with the first sync of a journal, which it may have created.
    syncs_directory: bool,
    delete_on_close: bool,
}

fn real_vfs() -> *mut sqlite3_vfs {
    static REAL: OnceLock<usize> = OnceLock::new();
    *REAL.get_or_init(|| {
        // SAFETY: a null name asks for the default, which is there as long as the process.
        unsafe { ffi::sqlite3_vfs_find(ptr::null()) as usize }
    }) as *mut sqlite3_vfs
}

fn register() {
    static REGISTERED: OnceLock<()> = OnceLock::new();
    REGISTERED.get_or_init(|| {
        // SAFETY: the real one is valid and stays so; it is copied, then changed in the copy.
        let mut vfs = unsafe { *real_vfs() };
        vfs.iVersion = vfs.iVersion.min(2);
        vfs.szOsFile += size_of::<Layer>() as c_int;
        vfs.pNext = ptr::null_mut();
        vfs.zName = NAME.as_ptr();
        vfs.xOpen = Some(open);
        vfs.xDelete = Some(delete);
        vfs.xAccess = Some(access);
        vfs.xFullPathname = Some(full_pathname);
        // SAFETY: it is leaked, so it outlives every connection.
        let code = unsafe { ffi::sqlite3_vfs_register(Box::into_raw(Box::new(vfs)), 0) };
        assert_eq!(code, ffi::SQLITE_OK);
    });
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    // Without memory-mapped reads, which would go past this layer.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

fn name_of(name: *const c_char) -> PathBuf {
    // SAFETY: SQLite alone calls the layer, and its names end with a zero.
    PathBuf::from(unsafe { CStr::from_ptr(name) }.to_str().unwrap())
}

fn state_of(path: &Path) -> Option<Arc<Mutex<State>>> {
    locked(disks()).get(path.parent()?).cloned()
}

unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let layer = file.cast::<Layer>();
    // SAFETY: SQLite gives us szOsFile bytes: ours, and behind them those of the real layer.
    let real = unsafe { layer.add(1) }.cast::<sqlite3_file>();
    // SAFETY: as above.
    unsafe { (*layer).base.pMethods = ptr::null() };
    let path = if name.is_null() { None } else { Some(name_of(name)) };
    // SAFETY: the arguments are SQLite's own, the memory is large enough for the real layer.
    let code = unsafe { (*real_vfs()).xOpen.unwrap()(real_vfs(), name, real, flags, out_flags) };
    if code != ffi::SQLITE_OK {
        return code;
    }
    let journal = flags & (ffi::SQLITE_OPEN_WAL | ffi::SQLITE_OPEN_MAIN_JOURNAL) != 0;
    let modelled = path.filter(|_| journal || flags & ffi::SQLITE_OPEN_MAIN_DB != 0);
    let open = modelled.and_then(|path| {
        let state = state_of(&path)?;
        let mut guard = locked(&state);
        let known = guard.files.entry(path.clone()).or_default();
        if known.removed {
            *known = Modelled::default();
        }
        drop(guard);
        let delete_on_close = flags & ffi::SQLITE_OPEN_DELETEONCLOSE != 0;
        let syncs_directory = journal && flags & ffi::SQLITE_OPEN_CREATE != 0;
        Some(Open { state, path, syncs_directory, delete_on_close })
    });
    let open = open.map_or(ptr::null_mut(), |open| Box::into_raw(Box::new(open)));
    // SAFETY: the memory is ours.
    unsafe {
        layer.write(Layer { base: sqlite3_file { pMethods: &raw const METHODS }, real, open });
    };
    ffi::SQLITE_OK
}

unsafe extern "C" fn delete(_: *mut sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    let path = name_of(name);
    if let Some(state) = state_of(&path) {
        let mut state = locked(&state);
        if let Err(code) = state.operate() {
            return code;
        }
        if let Some(file) = state.files.get_mut(&path) {
            file.removed = true;
        }
        if sync != 0 {
            state.sync_directory();
        }
    }
    // SAFETY: the arguments are SQLite's own. The directory is not synced for real.
    unsafe { (*real_vfs()).xDelete.unwrap()(real_vfs(), name, 0) }
}

unsafe extern "C" fn access(
    _: *mut sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: the arguments are SQLite's own.
    unsafe { (*real_vfs()).xAccess.unwrap()(real_vfs(), name, flags, out) }
}

unsafe extern "C" fn full_pathname(
    _: *mut sqlite3_vfs,
    name: *const c_char,
    size: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: the arguments are SQLite's own.
    unsafe { (*real_vfs()).xFullPathname.unwrap()(real_vfs(), name, size, out) }
}

/// The real file and what we know of it.
fn parts<'a>(file: *mut sqlite3_file) -> (*mut sqlite3_file, Option<&'a mut Open>) {
    // SAFETY: SQLite alone calls the layer: `open` made the file, and SQLite uses one file from one thread at a time.
    unsafe {
        let layer = file.cast::<Layer>();
        ((*layer).real, (*layer).open.as_mut())
    }
}

/// Calls the real layer's method of this name.
macro_rules! real {
    ($file:expr, $method:ident $(, $argument:expr)*) => {
        // SAFETY: the real file was opened by the real layer, the arguments are SQLite's own.
        unsafe { (*(*$file).pMethods).$method.unwrap()($file $(, $argument)*) }
    };
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    let (real, open) = parts(file);
    let code = real!(real, xClose);
    if let Some(open) = open {
        if open.delete_on_close {
            locked(&open.state).files.remove(&open.path);
        }
        // SAFETY: it came from `Box::into_raw`, and nobody uses the file any more.
        drop(unsafe { Box::from_raw(ptr::from_mut(open)) });
    }
    code
}

unsafe extern "C" fn read(
    file: *mut sqlite3_file,
    to: *mut c_void,
    count: c_int,
    at: sqlite3_int64,
) -> c_int {
    let (real, _) = parts(file);
    real!(real, xRead, to, count, at)
}

/// Does something to the model, or says how it fails.
fn model(open: Option<&mut Open>, change: impl FnOnce(&mut Modelled)) -> Result<(), c_int> {
    let Some(open) = open else { return Ok(()) };
    let mut state = locked(&open.state);
    state.operate()?;
    if let Some(file) = state.files.get_mut(&open.path) {
        change(file);
    }
    Ok(())
}

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    from: *const c_void,
    count: c_int,
    at: sqlite3_int64,
) -> c_int {
    let (real, open) = parts(file);
    // SAFETY: SQLite gives us so many bytes.
    let bytes = unsafe { slice::from_raw_parts(from.cast::<u8>(), count as usize) };
    let op = Op::Write { at: at as usize, bytes: bytes.to_vec() };
    if let Err(code) = model(open, |file| file.pending.push(op)) {
        return code;
    }
    real!(real, xWrite, from, count, at)
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, size: sqlite3_int64) -> c_int {
    let (real, open) = parts(file);
    let op = Op::Truncate { size: size as usize };
    if let Err(code) = model(open, |file| file.pending.push(op)) {
        return code;
    }
    real!(real, xTruncate, size)
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, _: c_int) -> c_int {
    let (_, open) = parts(file);
    let Some(open) = open else { return ffi::SQLITE_OK };
    let directory = std::mem::take(&mut open.syncs_directory);
    let mut state = locked(&open.state);
    if let Err(code) = state.operate() {
        return code;
    }
    if let Some(file) = state.files.get_mut(&open.path) {
        for op in std::mem::take(&mut file.pending) {
            op.apply(&mut file.durable);
        }
    }
    if directory {
        state.sync_directory();
    }
    // Not for real: nothing here outlives the test.
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_size(file: *mut sqlite3_file, out: *mut sqlite3_int64) -> c_int {
    let (real, _) = parts(file);
    real!(real, xFileSize, out)
}

unsafe extern "C" fn lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    let (real, _) = parts(file);
    real!(real, xLock, level)
}

unsafe extern "C" fn unlock(file: *mut sqlite3_file, level: c_int) -> c_int {
    let (real, _) = parts(file);
    real!(real, xUnlock, level)
}

unsafe extern "C" fn check_reserved_lock(file: *mut sqlite3_file, out: *mut c_int) -> c_int {
    let (real, _) = parts(file);
    real!(real, xCheckReservedLock, out)
}

unsafe extern "C" fn file_control(file: *mut sqlite3_file, op: c_int, of: *mut c_void) -> c_int {
    let (real, _) = parts(file);
    real!(real, xFileControl, op, of)
}

unsafe extern "C" fn sector_size(file: *mut sqlite3_file) -> c_int {
    let (real, _) = parts(file);
    real!(real, xSectorSize)
}

unsafe extern "C" fn device_characteristics(file: *mut sqlite3_file) -> c_int {
    let (real, _) = parts(file);
    real!(real, xDeviceCharacteristics)
}

unsafe extern "C" fn shm_map(
    file: *mut sqlite3_file,
    page: c_int,
    size: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    let (real, _) = parts(file);
    real!(real, xShmMap, page, size, extend, out)
}

unsafe extern "C" fn shm_lock(
    file: *mut sqlite3_file,
    offset: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    let (real, _) = parts(file);
    real!(real, xShmLock, offset, count, flags)
}

unsafe extern "C" fn shm_barrier(file: *mut sqlite3_file) {
    let (real, _) = parts(file);
    real!(real, xShmBarrier);
}

unsafe extern "C" fn shm_unmap(file: *mut sqlite3_file, delete: c_int) -> c_int {
    let (real, _) = parts(file);
    real!(real, xShmUnmap, delete)
}
