//! The comparison of what the script made with what the plan made.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::Result;

use super::noise::is_noise;
use super::side::Side;
use crate::machine::files::PathText;
use crate::rehearse::difference::Entry;

/// What was compared, and what the plan does not reproduce.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// How many differences the script made, or the plan made beside them.
    pub differences: usize,
    /// Those that are not the same on both machines, with what differs.
    pub remaining: Vec<String>,
}

impl Comparison {
    /// How many the plan reproduces.
    pub fn reproduced(&self) -> usize {
        self.differences - self.remaining.len()
    }
}

/// The paths among these that are not noise.
pub(super) fn paths(entries: &[Entry]) -> BTreeSet<PathBuf> {
    entries
        .iter()
        .filter(|entry| !is_noise(&entry.path, entry.directory))
        .map(|entry| entry.path.clone())
        .collect()
}

/// Compares the machine that the script ran on with that of the plan. `changed` are the paths that the script and the
/// plan changed; `from` is the base with the packages alone, and `base` itself. Paths that are `apart` are compared
/// loosely, and accounts that are `numbered` with their numbers.
pub(super) fn compare(
    from: &Side,
    base: &Side,
    script: &Side,
    plan: &Side,
    (changed, planned): (&BTreeSet<PathBuf>, &BTreeSet<PathBuf>),
    (apart, numbered): (&BTreeSet<PathBuf>, &BTreeSet<String>),
) -> Result<Comparison> {
    let mut comparison = Comparison::default();
    for path in changed.union(planned) {
        // A product is compared as one: what is in it its command decides.
        if path.ancestors().skip(1).any(|above| apart.contains(above)) {
            continue;
        }
        let differs = script.difference(path, plan, apart.contains(path))?;
        // What comes with a package is the package's.
        let is_own =
            differs.is_some() || (changed.contains(path) && script.difference(path, from, false)?.is_some());
        comparison.differences += usize::from(is_own);
        comparison.remaining.extend(differs.map(|what| format!("{}: {what}", PathText::new(path))));
    }
    let all = |side: &Side, packages: &Side| -> BTreeMap<String, String> {
        let packages = packages.packages.0.iter().map(|(name, package)| {
            let held = if package.held { ", on hold" } else { "" };
            (format!("package {name}"), format!("{}{held}", package.version))
        });
        let active = side.active.iter().map(|unit| (format!("active {unit}"), String::new()));
        let of_files = side.accounts.lines(numbered).into_iter().chain(packages).chain(side.answers.lines());
        let of_files = of_files.chain(side.alternatives.lines());
        of_files.chain(active).chain(side.cluster.lines()).chain(side.kernel.lines()).collect()
    };
    let (before, made, planned) = (all(from, base), all(script, script), all(plan, plan));
    let names: BTreeSet<&String> = before.keys().chain(made.keys()).chain(planned.keys()).collect();
    for name in names {
        let (desired, got) = (made.get(name), planned.get(name));
        if desired != got {
            let what = match (desired, got) {
                (Some(_), None) => "missing".to_owned(),
                (None, _) => "additional".to_owned(),
                (Some(desired), Some(got)) if desired.lines().count() < 2 => {
                    format!("{got} instead of {desired}")
                }
                (Some(_), Some(_)) => "content".to_owned(),
            };
            comparison.remaining.push(format!("{name}: {what}"));
        }
        comparison.differences += usize::from(desired != got || desired != before.get(name));
    }
    Ok(comparison)
}
