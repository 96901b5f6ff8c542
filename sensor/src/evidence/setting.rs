//! Where a process runs and what bounds it there: its unit or container by the name of its control
//! group, the limits of its groups, its own.
//!
//! Reads small files that the kernel makes; none of them waits for anything.

use std::path::{Path, PathBuf};

use sensor_proto::json::escape;

use super::proc::{Opened, Proc, read_file};
use crate::{cgroup::Hierarchies, lineage::ProcessKey, proto};

/// Of one file of a group.
const FILE_LIMIT: usize = 4096;

/// Groups of all hierarchies together: they nest a few levels deep.
const GROUPS: usize = 32;

/// Lines of a file that has several, e.g. memory.events.
const LINES: usize = 16;

/// What a controller says about a group, v2 and v1. memory.stat is left out: to read it, the kernel sums
/// up all CPUs of all groups below.
const FILES: [&str; 27] = [
    "memory.max",
    "memory.high",
    "memory.current",
    "memory.peak",
    "memory.swap.max",
    "memory.swap.current",
    "memory.oom.group",
    "memory.events.local",
    "memory.events",
    "pids.max",
    "pids.current",
    "pids.peak",
    "pids.events",
    "cpu.max",
    "cpu.weight",
    "cpu.stat",
    "cgroup.freeze",
    "cgroup.events",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "memory.max_usage_in_bytes",
    "memory.failcnt",
    "memory.memsw.limit_in_bytes",
    "memory.oom_control",
    "cpu.shares",
    "cpu.cfs_quota_us",
    "cpu.cfs_period_us",
];

/// A group above limits something if one of these is not `max`.
const BOUNDS: [&str; 7] = [
    "memory.max",
    "memory.high",
    "memory.swap.max",
    "pids.max",
    "cpu.max",
    "memory.limit_in_bytes",
    "cpu.cfs_quota_us",
];

/// v1 says "no limit" with a number of pages beyond all memory.
const UNLIMITED: u64 = 1 << 60;

const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];

/// Rows of /proc/PID/limits: their words, the names that people know, and units.
const LIMITS: [(&str, &str, &str); 16] = [
    ("Max cpu time", "cpu", "seconds"),
    ("Max file size", "fsize", "bytes"),
    ("Max data size", "data", "bytes"),
    ("Max stack size", "stack", "bytes"),
    ("Max core file size", "core", "bytes"),
    ("Max resident set", "rss", "bytes"),
    ("Max processes", "nproc", ""),
    ("Max open files", "nofile", ""),
    ("Max locked memory", "memlock", "bytes"),
    ("Max address space", "as", "bytes"),
    ("Max file locks", "locks", ""),
    ("Max pending signals", "sigpending", ""),
    ("Max msgqueue size", "msgqueue", "bytes"),
    ("Max nice priority", "nice", ""),
    ("Max realtime priority", "rtprio", ""),
    ("Max realtime timeout", "rttime", "us"),
];

/// `None`: the process is gone.
pub(super) fn of(proc: &Proc, key: ProcessKey) -> Option<proto::Setting> {
    let opened = proc.open(key)?;
    let mut setting = proto::Setting {
        process: Some(proto::ProcessKey { pid: key.tgid, start_ns: key.start_ns }),
        namespaces: namespaces(proc, &opened),
        limits: opened.file("limits").map(|text| limits(&text)).unwrap_or_default(),
        groups: groups(proc, key.tgid),
        ..Default::default()
    };
    let memberships = opened.file("cgroup").unwrap_or_default();
    name(&memberships, &mut setting);
    Some(setting)
}

/// Those that it does not share with pid 1.
fn namespaces(proc: &Proc, opened: &Opened) -> Vec<proto::Reading> {
    let own = |name: &&str| {
        let theirs = opened.link(&format!("ns/{name}"))?;
        let hosts = std::fs::read_link(proc.root().join("1/ns").join(name)).ok()?;
        let text = String::from_utf8_lossy(&theirs).into_owned();
        let number = text.split(['[', ']']).nth(1)?.to_owned();
        (hosts != Path::new(&text)).then(|| proto::Reading { name: (*name).into(), value: number })
    };
    NAMESPACES.iter().filter_map(own).collect()
}

fn groups(proc: &Proc, pid: u32) -> Vec<proto::GroupFacts> {
    let Ok(hierarchies) = Hierarchies::at(proc.root()) else { return Vec::new() };
    let mut seen: Vec<PathBuf> = Vec::new();
    let mut found = Vec::new();
    for controller in ["memory", "pids", "cpu"] {
        let mut own = [true, true];
        for dir in hierarchies.groups_of(pid, controller).unwrap_or_default() {
            let unified = hierarchies.unified().is_some_and(|at| dir.starts_with(at));
            let own = std::mem::take(&mut own[usize::from(unified)]);
            if seen.contains(&dir) || found.len() >= GROUPS {
                continue;
            }
            let readings = readings(&dir);
            if !readings.is_empty() && (own || readings.iter().any(bounds)) {
                found.push(proto::GroupFacts {
                    path: dir.as_os_str().as_encoded_bytes().to_vec(),
                    hierarchy: if unified { "v2" } else { controller }.to_owned(),
                    readings,
                });
            }
            seen.push(dir);
        }
    }
    found
}

fn readings(dir: &Path) -> Vec<proto::Reading> {
    let mut found = Vec::new();
    for file in FILES {
        let Some(text) = read_file(dir.join(file), FILE_LIMIT) else { continue };
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().take(LINES).collect();
        match lines[..] {
            [] => {}
            [value] => found.push(proto::Reading { name: file.into(), value: value_of(value) }),
            _ => found.extend(lines.iter().filter_map(|line| {
                let (name, value) = line.split_once(' ')?;
                // What never happened is no news.
                (value != "0")
                    .then(|| proto::Reading { name: format!("{file} {name}"), value: value.into() })
            })),
        }
    }
    found
}

fn value_of(text: &str) -> String {
    match text.parse::<u64>() {
        Ok(number) if number >= UNLIMITED => "max".to_owned(),
        // No quota of CPU time in v1.
        _ if text == "-1" => "max".to_owned(),
        _ => text.to_owned(),
    }
}

fn bounds(reading: &proto::Reading) -> bool {
    BOUNDS.contains(&reading.name.as_str()) && !reading.value.starts_with("max")
}

/// Of /proc/PID/limits: what is limited, and always how many files and processes there may be.
pub(crate) fn limits(text: &[u8]) -> Vec<proto::ResourceLimit> {
    let text = String::from_utf8_lossy(text);
    let row = |line: &str| {
        let (words, name, unit) = LIMITS.iter().find(|(words, ..)| line.starts_with(words))?;
        let mut values = line[words.len()..].split_ascii_whitespace();
        let mut value = || match values.next()? {
            "unlimited" => Some(None),
            number => number.parse::<u64>().ok().map(Some),
        };
        let (soft, hard) = (value()?, value()?);
        let told = soft.is_some() || hard.is_some() || matches!(*name, "nofile" | "nproc");
        let (name, unit) = ((*name).to_owned(), (*unit).to_owned());
        told.then_some(proto::ResourceLimit { name, soft, hard, unit })
    };
    text.lines().filter_map(row).collect()
}

/// Unit, slice and container, by the path of the group as systemd and container runtimes name it.
/// Whoever may make groups may make a name like these: a hint for people, nothing is decided by it.
pub(crate) fn name(memberships: &[u8], setting: &mut proto::Setting) {
    for controller in [None, Some("name=systemd"), Some("memory"), Some("pids")] {
        let Some(path) = crate::cgroup::membership(memberships, controller) else { continue };
        let path = path.to_string_lossy().into_owned();
        for part in path.split('/') {
            match part.rsplit_once('.') {
                Some((_, "slice")) => setting.slice = escape(part.as_bytes()),
                Some((_, "service" | "scope")) => setting.unit = escape(part.as_bytes()),
                _ => {}
            }
        }
        contain(&path, setting);
        if !setting.unit.is_empty() || !setting.container.is_empty() {
            return;
        }
    }
}

/// Prefixes of a container's scope, and whose they are.
const SCOPES: [(&str, &str); 6] = [
    ("docker-", "docker"),
    ("cri-containerd-", "containerd"),
    ("containerd-", "containerd"),
    ("libpod-", "podman"),
    ("crio-", "crio"),
    ("machine-", "nspawn"),
];

fn contain(path: &str, setting: &mut proto::Setting) {
    let mut above = "";
    for part in path.split('/') {
        let stem = part.strip_suffix(".scope").unwrap_or(part);
        let scoped = SCOPES.iter().find_map(|(prefix, runtime)| {
            let id = stem.strip_prefix(prefix)?;
            (hex(id) || (*runtime == "nspawn" && stem.len() < part.len())).then_some((*runtime, id))
        });
        let plain = match above {
            _ if !hex(stem) => None,
            "docker" => Some(("docker", stem)),
            "libpod" | "libpod_parent" => Some(("podman", stem)),
            _ if path.contains("kubepods") => Some(("kubernetes", stem)),
            _ if !above.is_empty() => Some(("containerd", stem)),
            _ => None,
        };
        let other = part.strip_prefix("lxc.payload.").map(|name| ("lxc", name)).or_else(|| {
            let name = part.strip_prefix("systemd-nspawn@")?.strip_suffix(".service")?;
            Some(("nspawn", name))
        });
        if let Some((runtime, id)) = scoped.or(plain).or(other) {
            runtime.clone_into(&mut setting.runtime);
            setting.container = escape(id.as_bytes());
        }
        if path.contains("kubepods")
            && let Some((_, pod)) = part.strip_suffix(".slice").unwrap_or(part).rsplit_once("pod")
            && pod.len() >= 32
        {
            setting.pod = escape(pod.replace('_', "-").as_bytes());
        }
        above = part;
    }
}

/// Ids of containers are 64 hexadecimal digits.
fn hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::respond::process::key_of;

    fn named(path: &str) -> [String; 5] {
        let mut it = proto::Setting::default();
        name(format!("0::{path}\n").as_bytes(), &mut it);
        [it.unit, it.slice, it.runtime, it.container, it.pod]
    }

    #[test]
    fn a_group_has_the_name_that_its_maker_gave_it() {
        let id = "0123456789abcdef".repeat(4);
        let is = |path: &str, expected: [&str; 5]| assert_eq!(named(path), expected, "{path}");
        is("/system.slice/backup.service", ["backup.service", "system.slice", "", "", ""]);
        is(
            "/user.slice/user-7.slice/session-2.scope",
            ["session-2.scope", "user-7.slice", "", "", ""],
        );
        is(&format!("/docker/{id}"), ["", "", "docker", &id, ""]);
        let scope = format!("docker-{id}.scope");
        is(&format!("/system.slice/{scope}"), [&scope, "system.slice", "docker", &id, ""]);
        let scope = format!("libpod-{id}.scope");
        is(&format!("/machine.slice/{scope}"), [&scope, "machine.slice", "podman", &id, ""]);
        is("/lxc.payload.web/x", ["", "", "lxc", "web", ""]);
        let pod = "6c2e1d00-0000-4000-8000-000000000001";
        let old = format!("/kubepods/burstable/pod{pod}/{id}");
        is(&old, ["", "", "kubernetes", &id, pod]);
        let scope = format!("cri-containerd-{id}.scope");
        let slice = format!("kubepods-burstable-pod{}.slice", pod.replace('-', "_"));
        let new = format!("/kubepods.slice/kubepods-burstable.slice/{slice}/{scope}");
        is(&new, [&scope, &slice, "containerd", &id, pod]);
        is("/docker/short", ["", "", "", "", ""]);
        is("/", ["", "", "", "", ""]);
    }

    #[test]
    fn limits_as_people_know_them() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max cpu time              unlimited            unlimited            seconds   \n\
                    Max stack size            8388608              unlimited            bytes     \n\
                    Max open files            1024                 1048576              files     \n\
                    Max nice priority         odd                  0                    \n";
        let limit = |name: &str, soft, hard, unit: &str| proto::ResourceLimit {
            name: name.into(),
            soft,
            hard,
            unit: unit.into(),
        };
        let expected = [
            limit("stack", Some(8_388_608), None, "bytes"),
            limit("nofile", Some(1024), Some(1_048_576), ""),
        ];
        assert_eq!(limits(text.as_bytes()), expected);
    }

    #[test]
    fn this_process_runs_somewhere() {
        let key = key_of(std::process::id()).unwrap();
        let setting = of(&Proc::default(), key).unwrap();
        let nofile = setting.limits.iter().find(|limit| limit.name == "nofile").unwrap();
        let (soft, _) =
            nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(nofile.soft, Some(soft));
        assert_eq!(of(&Proc::default(), ProcessKey::new(key.tgid, 1)), None, "another one");
    }

    #[test]
    fn a_group_that_bounds_is_told_and_one_that_does_not_is_not() {
        let root = tempfile::tempdir().unwrap();
        let (proc, tree) = (root.path().join("proc"), root.path().join("pids"));
        std::fs::create_dir_all(proc.join("self")).unwrap();
        std::fs::create_dir_all(proc.join("17")).unwrap();
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        let mounts = format!("39 31 0:36 / {} rw - cgroup cgroup rw,pids\n", tree.display());
        std::fs::write(proc.join("self/mountinfo"), mounts).unwrap();
        std::fs::write(proc.join("17/cgroup"), "8:pids:/a/b\n").unwrap();
        for (dir, max) in [("a/b", "max"), ("a", "max"), ("", "99")] {
            std::fs::write(tree.join(dir).join("pids.max"), format!("{max}\n")).unwrap();
            std::fs::write(tree.join(dir).join("pids.events"), "max 3\nother 0\n").unwrap();
        }
        let found = groups(&Proc::at(proc), 17);
        let told: Vec<(String, Vec<String>)> = found
            .iter()
            .map(|group| {
                let readings = group.readings.iter().map(|it| format!("{} {}", it.name, it.value));
                (group.hierarchy.clone(), readings.collect())
            })
            .collect();
        let row = |max: &str| {
            ("pids".to_owned(), vec![format!("pids.max {max}"), "pids.events max 3".into()])
        };
        assert_eq!(told, [row("max"), row("99")], "its own, and the one that bounds");
    }

    proptest! {
        #[test]
        fn any_text(text in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = limits(&text);
            let mut setting = proto::Setting::default();
            name(&text, &mut setting);
            prop_assert!(!setting.unit.chars().any(char::is_control));
        }

        #[test]
        fn any_path(path in "(/(docker|kubepods|pod|[a-f0-9]{64}|docker-[a-f0-9]{64}.scope|x.slice|.scope)){0,6}") {
            let _ = named(&path);
        }
    }
}
