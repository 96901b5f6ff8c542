//! Where the kernel keeps what we read: offsets that user space resolves from BTF at load time.
//!
//! Rust has no CO-RE relocations, so the kernel side reads every offset from one read-only table,
//! which the verifier treats as constants.

/// Fields, by index into the table. Each is `struct.member` in the kernel's BTF.
#[repr(usize)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    TaskPid = 0,
    TaskTgid,
    TaskGroupLeader,
    TaskRealParent,
    TaskChildren,
    TaskSibling,
    TaskStartBoottime,
    TaskFlags,
    TaskExitCode,
    TaskExitState,
    TaskSelfExecId,
    TaskMm,
    TaskFs,
    TaskSignal,
    TaskCgroups,
    SignalLive,
    SignalThreads,
    MmArgStart,
    MmArgEnd,
    MmExeFile,
    FileInode,
    InodeIno,
    InodeSuper,
    SuperDev,
    FsPwd,
    PathDentry,
    DentryInode,
    CssSetDefault,
    CgroupKernfs,
    KernfsId,
    CloneFlags,
}

/// An offset of what this kernel does not have.
pub const ABSENT: u64 = u64::MAX;

/// Number of fields.
pub const FIELDS: usize = 31;

impl Field {
    /// All of them in order, with the names under which BTF has them. Where a kernel renamed one,
    /// the alternatives stand in order of preference.
    pub const NAMES: [(Self, &'static str, &'static [&'static str]); FIELDS] = [
        (Self::TaskPid, "task_struct", &["pid"]),
        (Self::TaskTgid, "task_struct", &["tgid"]),
        (Self::TaskGroupLeader, "task_struct", &["group_leader"]),
        (Self::TaskRealParent, "task_struct", &["real_parent"]),
        (Self::TaskChildren, "task_struct", &["children"]),
        (Self::TaskSibling, "task_struct", &["sibling"]),
        // real_start_time until 5.5.
        (Self::TaskStartBoottime, "task_struct", &["start_boottime", "real_start_time"]),
        (Self::TaskFlags, "task_struct", &["flags"]),
        (Self::TaskExitCode, "task_struct", &["exit_code"]),
        (Self::TaskExitState, "task_struct", &["exit_state"]),
        (Self::TaskSelfExecId, "task_struct", &["self_exec_id"]),
        (Self::TaskMm, "task_struct", &["mm"]),
        (Self::TaskFs, "task_struct", &["fs"]),
        (Self::TaskSignal, "task_struct", &["signal"]),
        (Self::TaskCgroups, "task_struct", &["cgroups"]),
        (Self::SignalLive, "signal_struct", &["live"]),
        (Self::SignalThreads, "signal_struct", &["nr_threads"]),
        (Self::MmArgStart, "mm_struct", &["arg_start"]),
        (Self::MmArgEnd, "mm_struct", &["arg_end"]),
        (Self::MmExeFile, "mm_struct", &["exe_file"]),
        (Self::FileInode, "file", &["f_inode"]),
        (Self::InodeIno, "inode", &["i_ino"]),
        (Self::InodeSuper, "inode", &["i_sb"]),
        (Self::SuperDev, "super_block", &["s_dev"]),
        (Self::FsPwd, "fs_struct", &["pwd"]),
        (Self::PathDentry, "path", &["dentry"]),
        (Self::DentryInode, "dentry", &["d_inode"]),
        (Self::CssSetDefault, "css_set", &["dfl_cgrp"]),
        (Self::CgroupKernfs, "cgroup", &["kn"]),
        (Self::KernfsId, "kernfs_node", &["id"]),
        (Self::CloneFlags, "kernel_clone_args", &["flags"]),
    ];
}
