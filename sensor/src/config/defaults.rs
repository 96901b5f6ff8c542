//! The values where a file says nothing. Their reasons stand in `default.toml`.

use sensor_common::{recursion::Limits, respawn, storm};

use super::*;
use crate::detect::pressure;

impl Default for Config {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/sensor".into(),
            runtime_dir: "/run/sensor".into(),
            scope: Scope::default(),
            kernel: Kernel::default(),
            detect: Detect::default(),
            vitals: Vitals::default(),
            respond: Respond::default(),
            evidence: Evidence::default(),
            record: Record::default(),
            feed: Feed::default(),
            investigate: Investigate::default(),
            webhooks: Vec::new(),
        }
    }
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            max_processes: 32_768,
            ring_bytes: MIB as u32,
            realtime: true,
            brake: Gear::TaskAlloc,
        }
    }
}

impl Default for Recursion {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            enabled: true,
            watch_repetitions: limits.watch,
            contain_repetitions: limits.contain,
            open_repetitions: limits.open,
            open_slow_repetitions: limits.open_slow,
            contain_span_ms: (limits.contain_span_ns / NS_PER_MS) as u32,
            contain_live: limits.contain_live,
        }
    }
}

impl Default for RecursionArgv {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            enabled: true,
            open_repetitions: limits.loose_open,
            contain_repetitions: limits.loose_contain,
        }
    }
}

impl Default for RecursionGrowth {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            enabled: true,
            repetitions: limits.growth_repetitions,
            growing: limits.growth_growing,
        }
    }
}

impl Default for ForkBomb {
    fn default() -> Self {
        let limits = storm::Limits::default();
        Self {
            enabled: true,
            chain: limits.chain,
            growth: limits.chain_growth,
            span_ms: limits.chain_ms,
        }
    }
}

impl Default for Explosion {
    fn default() -> Self {
        let limits = storm::Limits::default();
        Self {
            enabled: true,
            growth: limits.growth,
            growth_per_cpu: storm::Limits::GROWTH_PER_CPU,
            span_ms: limits.growth_ms,
            completed_percent: limits.completed_percent,
        }
    }
}

impl Default for Respawn {
    fn default() -> Self {
        let limits = respawn::Limits::default();
        Self {
            enabled: true,
            runs: limits.runs,
            window_s: limits.window_ms / MS_PER_S,
            windows: limits.windows,
            life_ms: limits.life_ms,
            failed_percent: limits.failed_percent,
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            enabled: true,
            growth_mib: 256,
            growth_percent: 6,
            reserve_percent: 5,
            share_percent: 50,
            fast_s: 60,
            soon_s: 600,
            fast_share_percent: 25,
            urgent_h: 2,
            medium_h: 24,
            slow_h: 168,
            bloat_mib: 2048,
            bloat_percent: 10,
        }
    }
}

impl Default for Pressure {
    fn default() -> Self {
        let limits = pressure::Limits::default();
        Self {
            enabled: true,
            watch_percent: limits.watch_percent as u32,
            warning_percent: limits.warning_percent as u32,
            critical_percent: limits.critical_percent as u32,
            warning_s: limits.warning_s as u32,
            critical_s: limits.critical_s as u32,
        }
    }
}

impl Default for Accumulation {
    fn default() -> Self {
        Self { enabled: true, in_seconds: 32, in_minutes: 16, in_hours: 8 }
    }
}

impl Default for Zombies {
    fn default() -> Self {
        Self { enabled: true, count: 64, many: 3277 }
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            memory_percent: 0,
            disk_percent: 0,
            cpu_percent: 0,
            disk: "/".into(),
            polling_interval_ms: 10_000,
        }
    }
}

impl Default for Respond {
    fn default() -> Self {
        Self {
            freeze_s: 600,
            brake_extra_s: 60,
            max_containments_per_minute: 10,
            dry_run: false,
            ballast_bytes: 2 * MIB,
            rules: Rules::default(),
            protect: Protect::default(),
        }
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            r1: Mode::Auto,
            r1b: Mode::Auto,
            r1c: Mode::Auto,
            r2: Mode::Auto,
            r3: Mode::Auto,
            r4: Mode::Suggest,
            r5: Mode::Suggest,
            r6: Mode::Suggest,
            m1: Mode::Suggest,
            m2: Mode::Suggest,
            m3: Mode::Suggest,
            m4: Mode::Suggest,
            m5: Mode::Suggest,
            m6: Mode::Suggest,
        }
    }
}

impl Default for Evidence {
    fn default() -> Self {
        Self { max_processes: 512, files: Vec::new(), deploy_markers: Vec::new() }
    }
}

impl Default for Record {
    fn default() -> Self {
        Self { max_bytes: 1024 * MIB }
    }
}

impl Default for Feed {
    fn default() -> Self {
        Self { user: "sensor".into(), tcp: Tcp::default() }
    }
}

impl Default for Tcp {
    fn default() -> Self {
        let file = |name: &str| Path::new("/etc/sensor/tls").join(name);
        Self {
            listen: String::new(),
            certificate: file("server.pem"),
            key: file("server.key"),
            client_ca: file("ca.pem"),
            readers: Vec::new(),
            operators: Vec::new(),
        }
    }
}

impl Default for Investigate {
    fn default() -> Self {
        Self {
            agent: Agent::Builtin,
            when: When::Doubt,
            stop_after: Stage::Diagnose,
            max_per_hour: 12,
            cooldown_s: 3600,
            window_tokens: 12_000,
            command: Command::default(),
            run: Bounds::default(),
            day: Day::default(),
            claude: Cli::default(),
            codex: Cli::default(),
            gemini: Cli::default(),
            opencode: Cli::default(),
            api: Cli::default(),
            prices: Vec::new(),
        }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            user: "nobody".into(),
            access: Access::Eye,
            deadline_s: 900,
            first_event_s: 60,
            silence_s: 180,
            linger_s: 10,
            memory_min_bytes: 512 * MIB,
            memory_max_bytes: 1024 * MIB,
            pids_max: 128,
            turns: 40,
            tool_calls: 100,
            tokens: 1_000_000,
            usd: Usd(2_000_000),
            resumes: 2,
        }
    }
}

impl Default for Day {
    fn default() -> Self {
        Self { runs: 24, tokens: 10_000_000, usd: Usd(10_000_000), critical_percent: 25 }
    }
}

impl Default for Command {
    fn default() -> Self {
        Self {
            program: Vec::new(),
            user: "nobody".into(),
            deadline_s: 300,
            memory_min_bytes: 64 * MIB,
            memory_max_bytes: 1024 * MIB,
            pids_max: 128,
        }
    }
}
