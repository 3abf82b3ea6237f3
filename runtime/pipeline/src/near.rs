//! Near names for messages about unknown ones.

/// The most names a message lists.
const LISTED: usize = 3;

/// The up to three candidates nearest to `name`, nearest first: at most a third of its letters differ,
/// or one contains the other.
pub fn near_names<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let allowed = (name.chars().count() / 3).clamp(1, 4);
    let mut near: Vec<(usize, &str)> = candidates
        .into_iter()
        .filter_map(|candidate| {
            let distance = edit_distance(name, candidate);
            let contained = name.len() >= 3 && (candidate.contains(name) || name.contains(candidate));
            (distance <= allowed || contained).then_some((distance, candidate))
        })
        .collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter().take(LISTED).map(|(_, candidate)| candidate.to_owned()).collect()
}

/// Writes names in backticks with commas, as in `` `a`, `b` ``.
pub fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The number of letters to insert, delete, replace or swap with their neighbour to get from `a` to `b`.
fn edit_distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(80).collect();
    let b: Vec<char> = b.chars().take(80).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_typos_and_parts() {
        let names = ["commit_interval", "publish_interval", "serve"];
        assert_eq!(near_names("comit_interval", names), ["commit_interval"]);
        assert_eq!(near_names("sevre", names), ["serve"]);
        assert_eq!(near_names("interval", names), ["commit_interval", "publish_interval"]);
        assert!(near_names("zzz", names).is_empty());
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("abcd", "abdc"), 1);
    }
}
