use super::*;

#[test]
fn cuts_hold_every_row_once() {
    let rows: Vec<usize> = (0..64).filter(|row| row % 5 != 0).collect();
    for (name, cut) in cuts(&rows) {
        let mut all: Vec<usize> = cut.concat();
        all.sort_unstable();
        assert_eq!(all, rows, "{name}");
    }
}
