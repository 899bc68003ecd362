//! Snapshots of tables large enough to split while they are walked.

use tidings::core::snapshot::{Begun, Step};
use tidings::core::write::Write;

use crate::dump::{Dump, dump};
use crate::world::{replica, stage};

struct Walk {
    begun: Begun,
    expected: Dump,
    blocks: Vec<Vec<u8>>,
}

#[test]
fn all_blocks_of_a_snapshot_are_of_the_moment_at_which_it_began() {
    let mut replica = replica(0, 1 << 20);
    let mut walks: Vec<Walk> = Vec::new();
    let mut done = 0;
    let mut dice = 1_u64;
    let mut roll = |sides: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) % sides
    };
    for n in 0..12_000 {
        // The table grows all the while, so that buckets split under the walks.
        let key = format!("key-{}", roll(n / 2 + 1)).into_bytes();
        let element = roll(1_000).to_le_bytes();
        let write = match roll(8) {
            0 => Write::Delete { key: &key },
            1 => Write::Add { key: b"one large set", elements: &[&element] },
            2 => Write::Remove { key: b"one large set", elements: &[&element] },
            3 => Write::Increment { key: &key, by: 1 },
            _ => Write::Set { key: &key, value: b"17" },
        };
        replica.write(n, write).unwrap();
        if n % 1_500 == 700 {
            let expected = dump(replica.state());
            let begun = replica.begin_snapshot().expect("there is room");
            walks.push(Walk { begun, expected, blocks: Vec::new() });
        }
        if n % 150 == 0 && !walks.is_empty() {
            let at = roll(walks.len() as u64) as usize;
            match replica.step_snapshot(walks[at].begun.id) {
                Step::Block(block) => walks[at].blocks.push(block),
                Step::Done => {
                    let Walk { begun, expected, blocks } = walks.swap_remove(at);
                    replica.end_snapshot(begun.id);
                    assert_eq!(dump(&stage(replica.state(), &begun, &blocks)), expected);
                    done += 1;
                }
                Step::Aborted => panic!("nothing aborted it"),
            }
        }
    }
    assert!(done >= 3, "{done} were walked to their end");
}

#[test]
fn a_merge_aborts_what_is_running_and_there_is_room_again() {
    let mut one = replica(0, 0);
    let begun: Vec<Begun> = std::iter::from_fn(|| one.begin_snapshot()).collect();
    assert_eq!(begun.len(), tidings::core::bounds::SNAPSHOTS);
    one.end_snapshot(begun[0].id);
    assert!(one.begin_snapshot().is_some());
    assert!(one.begin_snapshot().is_none());
    let two = replica(1, 0);
    one.merge(two.state(), two.state().seen_entries(), Vec::new(), Vec::new()).unwrap();
    assert_eq!(one.step_snapshot(begun[1].id), Step::Aborted);
    assert!(one.begin_snapshot().is_some());
}
