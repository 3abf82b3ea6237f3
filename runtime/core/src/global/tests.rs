//! Ranks and reserved keys; the counts themselves are checked with the reads, in `tests/state_oracle.rs`.

use super::*;
use proptest::prelude::*;

proptest! {
    #[test]
    fn ranks_are_those_of_the_catalogue(counts in prop::collection::vec(0u64..6, 0..20)) {
        let distribution = Distribution::from_counts(counts.clone());
        let present: Vec<u64> = counts.into_iter().filter(|&count| count > 0).collect();
        prop_assert_eq!(distribution.entities(), present.len());
        prop_assert_eq!(distribution.rank(0), 0.0);
        for &count in &present {
            let fewer = present.iter().filter(|&&other| other < count).count();
            let expected = if present.len() == 1 { 1.0 } else { fewer as f64 / (present.len() - 1) as f64 };
            prop_assert_eq!(distribution.rank(count), expected);
        }
    }

    #[test]
    fn damaged_hops_are_errors(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = VERSION;
        }
        drop(decode_hop(&bytes));
        drop(decode_header(60, &bytes));
    }
}

#[test]
fn reserved_keys_are_no_entities() {
    assert_eq!(global_index(&global_key(0)), Some(0));
    assert_eq!(global_index(&global_key(17)), Some(17));
    assert_eq!(global_index(&EntityKey::from_parts(&["global:0"])), None);
    assert!(std::str::from_utf8(global_key(0).as_bytes()).is_err());
    assert!(global_key(0).parts(2).is_none());
}

#[test]
fn a_window_needs_its_hops() {
    let def = GlobalDef { slot: 0, width_us: 180, hop_us: 60 };
    assert_eq!(tiles_needed(&def, 600), [420, 480, 540]);
    assert_eq!(tiles_needed(&def, 659), [420, 480, 540]);
    assert_eq!(tiles_needed(&def, 0), [-180, -120, -60]);
}
