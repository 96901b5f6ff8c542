//! What of the configuration gates, detectors and policy take, in their units.

use sensor_common::{recursion::Limits, respawn, storm};

use super::{Accumulation, Detect, MS_PER_S, Memory, Mode, NEVER, NS_PER_MS, Rules, Thresholds};
use crate::detect::{memory, pressure, usage};

impl Detect {
    /// The thresholds as the gates in the kernel take them.
    pub fn limits(&self) -> Limits {
        let or_never = |enabled: bool, count: u32| if enabled { count } else { NEVER };
        let (strict, argv, growth) =
            (&self.recursion, &self.recursion_argv, &self.recursion_growth);
        Limits {
            watch: or_never(strict.enabled, strict.watch_repetitions),
            contain: or_never(strict.enabled, strict.contain_repetitions),
            open: or_never(strict.enabled, strict.open_repetitions),
            open_slow: or_never(strict.enabled, strict.open_slow_repetitions),
            loose_open: or_never(argv.enabled, argv.open_repetitions),
            loose_contain: or_never(argv.enabled, argv.contain_repetitions),
            growth_repetitions: or_never(growth.enabled, growth.repetitions),
            growth_growing: or_never(growth.enabled, growth.growing),
            contain_live: strict.contain_live,
            zero: 0,
            contain_span_ns: u64::from(strict.contain_span_ms) * NS_PER_MS,
        }
    }

    /// The same for the storm gates, on a host with so many CPUs.
    pub fn storms(&self, cpus: u32) -> storm::Limits {
        let (bomb, explosion) = (&self.fork_bomb, &self.explosion);
        let growth = explosion.growth.max(explosion.growth_per_cpu.saturating_mul(cpus));
        storm::Limits {
            chain: if bomb.enabled { bomb.chain } else { NEVER },
            chain_growth: bomb.growth,
            chain_ms: bomb.span_ms,
            growth: if explosion.enabled { growth } else { NEVER },
            growth_ms: explosion.span_ms,
            completed_percent: explosion.completed_percent,
        }
    }

    /// The same for the respawn gate.
    pub fn respawns(&self) -> respawn::Limits {
        let respawn = &self.respawn;
        respawn::Limits {
            runs: if respawn.enabled { respawn.runs } else { respawn::Limits::NEVER },
            window_ms: respawn.window_s.saturating_mul(MS_PER_S),
            windows: respawn.windows,
            life_ms: respawn.life_ms,
            failed_percent: respawn.failed_percent,
        }
    }

    /// The same for the detectors of memory.
    pub fn memory(&self) -> memory::Limits {
        let hours = |hours: u32| u64::from(hours) * 3600;
        let Memory { enabled, growth_mib, growth_percent, reserve_percent, .. } = self.memory;
        let Memory { share_percent, fast_s, soon_s, fast_share_percent, .. } = self.memory;
        let Memory { urgent_h, medium_h, slow_h, bloat_mib, bloat_percent, .. } = self.memory;
        let Accumulation { enabled: accumulation, in_seconds, in_minutes, in_hours } =
            self.accumulation;
        memory::Limits {
            growth: enabled,
            growth_mib,
            growth_percent,
            reserve_percent,
            share_percent,
            fast_s,
            soon_s,
            fast_share_percent,
            urgent_s: hours(urgent_h),
            medium_s: hours(medium_h),
            slow_s: hours(slow_h),
            bloat_mib,
            bloat_percent,
            accumulation,
            second_workers: in_seconds,
            minute_workers: in_minutes,
            slow_workers: in_hours,
            unreaped: self.zombies.enabled,
            zombies: self.zombies.count,
            many_zombies: self.zombies.many,
        }
    }
}

impl Detect {
    /// The same for pressure on memory; `None`: nobody watches for it.
    pub fn pressure(&self) -> Option<pressure::Limits> {
        let pressure = &self.pressure;
        pressure.enabled.then(|| pressure::Limits {
            watch_percent: pressure.watch_percent.into(),
            warning_percent: pressure.warning_percent.into(),
            critical_percent: pressure.critical_percent.into(),
            warning_s: pressure.warning_s.into(),
            critical_s: pressure.critical_s.into(),
        })
    }
}

impl Thresholds {
    /// As the detector takes them.
    pub fn limits(&self) -> usage::Thresholds {
        let or_none = |percent: u32| Some(percent).filter(|percent| *percent > 0);
        usage::Thresholds {
            memory: or_none(self.memory_percent),
            disk: or_none(self.disk_percent),
            cpu: or_none(self.cpu_percent),
        }
    }
}

impl Rules {
    /// The mode of a rule by its name in findings; what no key governs is only suggested.
    pub fn mode(&self, rule: &str) -> Mode {
        match rule {
            "R1" => self.r1,
            "R1b" => self.r1b,
            "R1c" => self.r1c,
            "R2" => self.r2,
            "R3" => self.r3,
            "R4" => self.r4,
            "R5" => self.r5,
            "R6" => self.r6,
            "M1" => self.m1,
            "M2" => self.m2,
            "M3" => self.m3,
            "M4" => self.m4,
            "M5" => self.m5,
            "M6" => self.m6,
            _ => Mode::Suggest,
        }
    }
}
