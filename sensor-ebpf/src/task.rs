//! Reading kernel structures by offsets that user space resolved from BTF.

use core::{mem::MaybeUninit, ptr};

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use sensor_common::{
    FileId, ProcessKey,
    layout::{FIELDS, Field},
};

/// Offsets by `Field`; set before loading, so that the verifier takes them for constants.
#[unsafe(no_mangle)]
static OFFSETS: [u64; FIELDS] = [0; FIELDS];

/// A pointer into the kernel, as a number: only ever read through.
pub type Address = u64;

/// PF_KTHREAD of include/linux/sched.h, unchanged since 2.6.
pub const KERNEL_THREAD: u32 = 0x0020_0000;

/// PF_EXITING, as old.
const EXITING: u32 = 0x4;

#[inline(always)]
fn offset(field: Field) -> u64 {
    // SAFETY: within the array; volatile because user space replaces the content before loading.
    unsafe { ptr::read_volatile(&raw const OFFSETS[field as usize]) }
}

/// Reads a field. Zero when the address is bad: a null pointer down a chain is harmless, and no
/// branch multiplies the verifier's states.
#[inline(always)]
pub fn read<T: Copy>(base: Address, field: Field) -> T {
    read_at(base.wrapping_add(offset(field)))
}

/// Reads what is at an address; zero when it is bad.
#[inline(always)]
pub fn read_at<T: Copy>(address: Address) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the destination is ours and of that size; the helper checks the source and zeroes the
    // destination when it cannot be read: it always writes all of it. All T here are integers, valid
    // whatever the bits.
    unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            address as *const _,
        );
        value.assume_init()
    }
}

/// A `struct task_struct *`.
#[derive(Clone, Copy)]
pub struct Task(pub Address);

impl Task {
    #[inline(always)]
    pub fn pid(self) -> u32 {
        read(self.0, Field::TaskPid)
    }

    #[inline(always)]
    pub fn tgid(self) -> u32 {
        read(self.0, Field::TaskTgid)
    }

    /// (pid, tgid); one read where they are neighbours, as they are in every kernel so far.
    #[inline(always)]
    pub fn pid_tgid(self) -> (u32, u32) {
        if offset(Field::TaskTgid) != offset(Field::TaskPid) + 4 {
            return (self.pid(), self.tgid());
        }
        let pair: [u32; 2] = read(self.0, Field::TaskPid);
        (pair[0], pair[1])
    }

    /// Start of a thread group's leader, ns.
    #[inline(always)]
    pub fn start_ns(self) -> u64 {
        read(self.0, Field::TaskStartBoottime)
    }

    #[inline(always)]
    pub fn leader(self) -> Self {
        Self(read(self.0, Field::TaskGroupLeader))
    }

    #[inline(always)]
    pub fn real_parent(self) -> Self {
        Self(read(self.0, Field::TaskRealParent))
    }

    /// The process that this thread made last, of those that are still its children.
    #[inline(always)]
    pub fn youngest_child(self) -> Option<Self> {
        /// The second word of `struct list_head`: of a list's head, its last element.
        const PREV: u64 = 8;
        let head = self.0.wrapping_add(offset(Field::TaskChildren));
        let last: Address = read_at(head.wrapping_add(PREV));
        (last != head && last != 0).then(|| Self(last.wrapping_sub(offset(Field::TaskSibling))))
    }

    /// Identity of the thread group.
    #[inline(always)]
    pub fn key(self) -> ProcessKey {
        ProcessKey::new(self.tgid(), self.leader().start_ns())
    }

    #[inline(always)]
    pub fn is_kernel_thread(self) -> bool {
        read::<u32>(self.0, Field::TaskFlags) & KERNEL_THREAD != 0
    }

    /// Whether this thread ends.
    #[inline(always)]
    pub fn is_exiting(self) -> bool {
        read::<u32>(self.0, Field::TaskFlags) & EXITING != 0
    }

    /// Threads of the group that have not begun to exit.
    #[inline(always)]
    pub fn living_threads(self) -> u32 {
        read(self.signal(), Field::SignalLive)
    }

    /// Execs so far, its ancestors' included.
    #[inline(always)]
    pub fn execs(self) -> u32 {
        // The lower half of an u64 since 5.7; all we run on are little-endian.
        read(self.0, Field::TaskSelfExecId)
    }

    /// Whether its end was told to its parent: past the exit program, only to be waited for.
    #[inline(always)]
    pub fn is_zombie(self) -> bool {
        read::<u32>(self.0, Field::TaskExitState) != 0
    }

    /// As wait(2) would report it.
    #[inline(always)]
    pub fn exit_code(self) -> u32 {
        read(self.0, Field::TaskExitCode)
    }

    /// Threads of the group that the kernel has not yet let go of, exiting or not.
    #[inline(always)]
    pub fn unreleased_threads(self) -> u32 {
        read(self.signal(), Field::SignalThreads)
    }

    #[inline(always)]
    pub fn memory(self) -> Address {
        read(self.0, Field::TaskMm)
    }

    #[inline(always)]
    pub fn signal(self) -> Address {
        read(self.0, Field::TaskSignal)
    }

    /// The set of cgroups, one of each hierarchy.
    #[inline(always)]
    pub fn cgroups(self) -> Address {
        read(self.0, Field::TaskCgroups)
    }

    /// Id of the cgroup in the default (v2) hierarchy.
    #[inline(always)]
    pub fn cgroup(self) -> u64 {
        cgroup_id(read(self.cgroups(), Field::CssSetDefault))
    }

    #[inline(always)]
    pub fn cwd(self) -> FileId {
        let fs: Address = read(self.0, Field::TaskFs);
        let path = fs.wrapping_add(offset(Field::FsPwd));
        inode(read(read(path, Field::PathDentry), Field::DentryInode))
    }
}

/// Id of a `struct cgroup`, in whatever hierarchy it is.
#[inline(always)]
pub fn cgroup_id(group: Address) -> u64 {
    read(read(group, Field::CgroupKernfs), Field::KernfsId)
}

/// The executable of an address space.
#[inline(always)]
pub fn exe(memory: Address) -> FileId {
    inode(read(read(memory, Field::MmExeFile), Field::FileInode))
}

#[inline(always)]
fn inode(inode: Address) -> FileId {
    FileId {
        ino: read(inode, Field::InodeIno),
        dev: read(read(inode, Field::InodeSuper), Field::SuperDev),
        zero: 0,
    }
}
