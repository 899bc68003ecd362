//! What happened in a run, counted; sums over runs; and what a profile promises to have had.

use std::fmt;

use tidings::engine::WriteError;

use crate::plan::{KINDS, Plan, Profile};

/// Why clients' writes are refused, in the order of [`Facts::refused`].
const REFUSALS: [&str; 6] =
    ["wrong kind", "not an integer", "overflow", "too long", "out of memory", "stopped"];

macro_rules! facts {
    ($($(#[$what:meta])* $name:ident),* $(,)?) => {
        /// Counts of one run, or of many.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Facts {
            $($(#[$what])* pub $name: u64,)*
            /// Faults by kind.
            pub faults: [u64; KINDS.len()],
            /// Writes refused, by reason.
            pub refused: [u64; REFUSALS.len()],
            /// The longest that a healed core took to agree; microseconds.
            pub agreed_in: u64,
            /// A hash over all that was delivered and when.
            pub trace: u64,
        }

        impl Facts {
            /// The counts by name.
            fn rows(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }

            /// Adds those of another run.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
                self.faults.iter_mut().zip(other.faults).for_each(|(sum, n)| *sum += n);
                self.refused.iter_mut().zip(other.refused).for_each(|(sum, n)| *sum += n);
                self.agreed_in = self.agreed_in.max(other.agreed_in);
                self.trace ^= other.trace;
            }
        }
    };
}

facts! {
    writes, ops, starts, deaths, strikes, links, frames, bytes,
    /// Frames that a full queue refused.
    drops,
    merges, merges_aborted, checkpoints, checkpoints_failed, disk_failures,
    duplicates, answers, checks,
    /// Frames that vanished, came twice, overtook another, or came damaged.
    lost, doubled, overtaken, damaged,
    /// Damaged frames that could be read all the same.
    damaged_readable,
    /// Links closed because of what came over them, in runs with faults of the wire.
    offences,
    /// Starts that refused a damaged file, and starts from a damaged disk that went well.
    rot_refused, rot_outlived,
    slow_syncs,
    /// Ops sent from the log on disk, and reads of it that did not find them or failed.
    ops_from_disk, reads_failed,
    /// Ops sent without values that had been overwritten, and those of them that had come without.
    values_elided, values_elided_onward,
    /// Blocks that merges did not fetch again, since one that broke off had left them.
    blocks_reused,
    /// Sessions of merges with members that are not the primary, ranges that came from them, and ranges that were
    /// asked for once more, since who had been asked first did not give them.
    sources, ranges_of_sources, ranges_again,
    /// Keys that merges changed as had been worked out beforehand, and keys that were merged
    /// in the step, since ops had touched them meanwhile.
    keys_prepared, keys_again,
    /// Values left out of blocks, since whoever got them had seen the writes.
    values_left_out,
    /// Merges that took place with ranges of several members.
    shared_merges,
    /// Quorum reads that had an answer, those of them that peers had taught their node something, and
    /// those that had none.
    quorum_reads, quorum_lacking, quorum_failed,
    /// Sets of fifty elements or more that were added at once, and sets emptied by a delete.
    huge_sets, clears,
    /// Looks at a node that found keys in conflict, and removals of all kinds that wait.
    kind_conflicts, version_conflicts, parked, parked_sets,
    /// Looks at a node whose room for parked removals, or for ops ahead of their turn, was used up.
    parked_full, ahead_full,
    /// Audits of memory, bits of it that flipped and were mended, rot that was told of, and
    /// restarts where nobody could mend it; cells that were lost or
    /// changed and no fingerprint told, and merges of what then differed.
    audits, flips, flips_mended, rot_found, rot_restarted, losses, reconciled,
    /// Times that a node was told of something large on its way.
    receiving,
    /// Looks at figures that found counts to be what they should.
    figures,
}

impl Facts {
    /// Takes note of a refusal.
    pub fn refuse(&mut self, error: &WriteError) {
        let at = match error {
            WriteError::WrongKind(_) => 0,
            WriteError::NotAnInteger => 1,
            WriteError::Overflow => 2,
            WriteError::TooLong { .. } => 3,
            WriteError::OutOfMemory { .. } => 4,
            WriteError::LogFull { .. } | WriteError::Stopped(_) => 5,
        };
        self.refused[at] += 1;
    }

    /// A run that had nothing to check is not a pass, nor one without what its plan is for.
    pub fn check(&self, plan: &Plan) -> Result<(), String> {
        let lacks = |what: &str| Err(format!("nothing was checked, for lack of {what}: {self:?}"));
        if self.ops == 0 || self.checks == 0 || self.frames == 0 || self.links == 0 || self.figures == 0 {
            return lacks("events");
        }
        let faultless = plan.faults.is_empty();
        if plan.profile == Profile::CatchUp
            && faultless
            && (self.deaths, self.starts) != (1, plan.nodes as u64 + 1)
        {
            return lacks("a return");
        }
        if plan.profile == Profile::Storm && !faultless && plan.strikes > 0 && self.strikes == 0 {
            return lacks("faults");
        }
        // An exchange, on the bulk lane, may overtake the news of the same ops, and a request may cross
        // them; then they are asked for while they come. A few of them, a few times. And a quorum read
        // does not wait for long for what may be on its way.
        let waited = self.quorum_lacking + self.quorum_failed;
        let once = self.ops * (plan.nodes as u64 - 1);
        let calm = matches!(plan.profile, Profile::Calm | Profile::CatchUp);
        if faultless && calm && self.duplicates > 8 + once / 100 + 2 * waited {
            let twice = self.duplicates;
            return Err(format!("efficiency: {twice} of {once} ops came twice without any fault"));
        }
        if plan.profile == Profile::CatchUp && faultless && self.merges > 0 {
            return Err(format!("efficiency: {} context merges where the log reaches back", self.merges));
        }
        Ok(())
    }

    /// What many runs of a profile together must have had, and had not.
    pub fn lacks(&self, profile: Profile) -> Vec<String> {
        let rough = matches!(profile, Profile::Chaos | Profile::Storm);
        let always = ["clears", "kind_conflicts", "version_conflicts", "huge_sets", "checkpoints"];
        // Where writes are lost for good there is room for all that waits for them.
        let never = |name: &str| profile == Profile::Storm && name == "parked_full";
        let unless = |name: &str| (always.contains(&name) || rough) && !never(name);
        let rows = self.rows().into_iter().filter(|(name, n)| *n == 0 && unless(name));
        let mut lacks: Vec<String> = rows.map(|(name, _)| name.to_owned()).collect();
        let faults = KINDS.iter().zip(self.faults).filter(|(_, n)| *n == 0 && rough);
        lacks.extend(faults.map(|(kind, _)| kind.name()));
        let refusals = REFUSALS.iter().zip(self.refused).filter(|(_, n)| *n == 0 && rough);
        lacks.extend(refusals.map(|(why, _)| (*why).to_owned()));
        lacks
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |rows: Vec<(String, u64)>| -> String {
            rows.iter().map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", ")
        };
        let rows = self.rows().into_iter().map(|(name, n)| (name.replace('_', " "), n)).collect();
        let faults = KINDS.iter().zip(self.faults).map(|(kind, n)| (kind.name(), n)).collect();
        let refused = REFUSALS.iter().zip(self.refused).map(|(why, n)| ((*why).to_owned(), n)).collect();
        writeln!(f, "  {}", told(rows))?;
        writeln!(f, "  faults: {}", told(faults))?;
        writeln!(f, "  refused writes: {}", told(refused))?;
        write!(f, "  slowest agreement {:.1} s", self.agreed_in as f64 / 1e6)
    }
}
