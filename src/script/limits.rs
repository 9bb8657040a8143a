//! The limits within which every script is read and evaluated.

use std::cell::Cell;
use std::time::{Duration, Instant};

use rhai::packages::{Package, StandardPackage};
use rhai::{Dynamic, EvalAltResult, ImmutableString, Position};

use crate::machine::memory;

/// The stack, in bytes, of the thread that evaluates scripts: enough for every call level that the limits
/// allow.
pub const STACK_SIZE: usize = 64 * 1024 * 1024;

/// An engine with Rhai's own functions, which are looked up when they are called, within the limits.
pub(super) fn plain() -> rhai::Engine {
    let mut engine = rhai::Engine::new_raw();
    engine.register_global_module(StandardPackage::new_lazy().as_shared_module());
    engine.set_max_strings_interned(1 << 16);
    limit(&mut engine);
    engine
}

/// Sets every limit: what Rhai does by default differs between builds and leaves some open.
pub(super) fn limit(engine: &mut rhai::Engine) {
    // The default optimiser panics on an assignment into a constant map, and the full one calls host
    // functions while compiling.
    engine.set_optimization_level(rhai::OptimizationLevel::None);
    engine.set_strict_variables(true);
    engine.set_fail_on_invalid_map_property(true);
    engine.disable_symbol("eval");
    engine.set_max_call_levels(128);
    engine.set_max_expr_depths(64, 32);
    engine.set_max_operations(50_000_000);
    engine.set_max_string_size(LARGEST_TEXT);
    engine.set_max_array_size(100_000);
    engine.set_max_map_size(100_000);
    engine.set_max_modules(1_000);
    engine.set_max_functions(10_000);
    engine.set_max_variables(10_000);
    let memory = Memory::default();
    engine.on_progress(move |_| memory.exhausted());
    // Rhai's own create the new string before they check its size: from two strings of the largest size, one of 2^48
    // bytes.
    engine.register_fn("replace", |text: &mut ImmutableString, from: &str, to: &str| replace(text, from, to));
    engine.register_fn("replace", |text: &mut ImmutableString, from: char, to: &str| {
        replace(text, from.encode_utf8(&mut [0; 4]), to)
    });
}

/// The largest string, in bytes.
pub const LARGEST_TEXT: usize = 16 * 1024 * 1024;

/// How much memory a script may use, in bytes: many large values are each within their limit. What the process has before
/// it, the journal above all, is not the script's.
const MOST_MEMORY: u64 = 1024 * 1024 * 1024;

/// Checks from time to time how much memory is used.
pub(super) struct Memory {
    operations: Cell<u32>,
    looked: Cell<Instant>,
    is_exhausted: Cell<bool>,
    /// How much the process may use.
    most: u64,
}

impl Default for Memory {
    fn default() -> Self {
        let most = memory::resident().unwrap_or(0) + MOST_MEMORY;
        Self {
            operations: Cell::default(),
            looked: Cell::new(Instant::now()),
            is_exhausted: Cell::default(),
            most,
        }
    }
}

impl Memory {
    /// Why the script must end, if it uses too much; asked at each operation.
    pub(super) fn exhausted(&self) -> Option<Dynamic> {
        // The clock costs more than most operations, and no operation makes more than a few large texts. Rhai's own
        // count begins again with each closure that one of its functions calls.
        self.operations.set(self.operations.get().wrapping_add(1));
        if self.operations.get().is_multiple_of(16) {
            let now = Instant::now();
            if now >= self.looked.get() + Duration::from_millis(2) {
                self.looked.set(now);
                self.is_exhausted.set(memory::resident().is_some_and(|used| used > self.most));
            }
        }
        // Repeated at every operation from then on: Rhai ignores an error while it turns values into strings.
        self.is_exhausted
            .get()
            .then(|| Dynamic::from(format!("the script uses more than {} MiB of memory", MOST_MEMORY >> 20)))
    }
}

fn replace(text: &mut ImmutableString, from: &str, to: &str) -> Result<(), Box<EvalAltResult>> {
    let growth = to.len().saturating_sub(from.len());
    if text.len().saturating_add(text.matches(from).count().saturating_mul(growth)) > LARGEST_TEXT {
        let what = "Length of string".to_owned();
        return Err(Box::new(EvalAltResult::ErrorDataTooLarge(what, Position::NONE)));
    }
    *text = text.replace(from, to).into();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_was_used_before_the_script_does_not_count() {
        let is_exhausted_after = |memory: &Memory| {
            std::thread::sleep(Duration::from_millis(3));
            (0..16).any(|_| memory.exhausted().is_some())
        };
        let used = memory::resident().unwrap();
        let memory = Memory::default();
        assert!(memory.most >= MOST_MEMORY + used / 2, "{} with {used} used", memory.most);
        assert!(!is_exhausted_after(&memory));
        assert!(is_exhausted_after(&Memory { most: used / 2, ..memory }));
    }
}
