//! Copies what a closure captured, so that calling it leaves the variables around it unchanged.

use std::collections::HashMap;

use rhai::{Array, Dynamic, FnPtr, ImmutableString, Map};

/// A closure with copies of what this one captured. A variable that several of its captured closures share stays
/// shared.
pub(super) fn apart(closure: &FnPtr) -> FnPtr {
    let mut copies = Copies::default();
    let mut copy = closure.clone();
    for captured in copy.iter_curry_mut() {
        *captured = copies.of(captured);
    }
    copy
}

/// The copies so far, by the address of what a shared variable holds.
#[derive(Default)]
struct Copies(HashMap<usize, Dynamic>);

impl Copies {
    fn of(&mut self, value: &Dynamic) -> Dynamic {
        let address = if value.is_shared() { address(value) } else { None };
        if let Some(copy) = address.and_then(|address| self.0.get(&address)) {
            return copy.clone();
        }
        let mut copy = value.flatten_clone();
        if value.is_shared() {
            copy = copy.into_shared();
        }
        // Registered before its content is copied: a closure may capture itself.
        if let Some(address) = address {
            self.0.insert(address, copy.clone());
        }
        self.within(&copy.flatten_clone(), &mut copy);
        copy
    }

    /// Copies what `value` holds into `copy`.
    fn within(&mut self, value: &Dynamic, copy: &mut Dynamic) {
        if let Some(closure) = value.read_lock::<FnPtr>() {
            let captured: Vec<Dynamic> = closure.iter_curry().map(|captured| self.of(captured)).collect();
            if let Some(mut copy) = copy.write_lock::<FnPtr>() {
                copy.set_curry(captured);
            }
        } else if let Some(items) = value.read_lock::<Array>() {
            let items: Array = items.iter().map(|item| self.of(item)).collect();
            if let Some(mut copy) = copy.write_lock::<Array>() {
                *copy = items;
            }
        } else if let Some(fields) = value.read_lock::<Map>() {
            let fields: Map = fields.iter().map(|(key, field)| (key.clone(), self.of(field))).collect();
            if let Some(mut copy) = copy.write_lock::<Map>() {
                *copy = fields;
            }
        }
    }
}

/// The address of a shared value; none for types that closures never need to share.
fn address(value: &Dynamic) -> Option<usize> {
    fn of<T: Clone + 'static>(value: &Dynamic) -> Option<usize> {
        value.read_lock::<T>().map(|held| std::ptr::from_ref::<T>(&held).addr())
    }
    of::<FnPtr>(value)
        .or_else(|| of::<Map>(value))
        .or_else(|| of::<Array>(value))
        .or_else(|| of::<ImmutableString>(value))
        .or_else(|| of::<i64>(value))
        .or_else(|| of::<f64>(value))
        .or_else(|| of::<bool>(value))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use rhai::{Engine, NativeCallContext};

    use super::*;

    /// What a script says with `say`, where `step` calls its closure apart.
    fn said(script: &str) -> String {
        let said = Rc::new(RefCell::new(String::new()));
        let mut engine = Engine::new();
        engine.register_fn("step", |context: NativeCallContext, closure: FnPtr| {
            apart(&closure).call_within_context::<Dynamic>(&context, ()).map(drop)
        });
        let heard = Rc::clone(&said);
        engine.register_fn("say", move |value: Dynamic| heard.borrow_mut().push_str(&value.to_string()));
        engine.run(script).unwrap();
        said.take()
    }

    #[test]
    fn step_changes_copies_of_what_it_captured() {
        for (script, expected) in [
            ("let n = 80; step(|| { n = 1; say(n); }); say(n); step(|| say(n));", "18080"),
            ("let l = [1]; step(|| { l.push(2); say(l.len()); }); say(l.len());", "21"),
            ("let m = #{ a: [1] }; step(|| { m.a.push(2); m.b = 1; }); say(m);", "#{\"a\": [1]}"),
            ("let s = \"a\"; step(|| { s += \"b\"; say(s); }); say(s);", "aba"),
            ("let c = 'a'; step(|| { c = 'b'; say(c); }); say(c);", "ba"),
        ] {
            assert_eq!(said(script), expected, "{script}");
        }
    }

    #[test]
    fn closures_that_a_step_captured_share_its_copies() {
        for (script, expected) in [
            (
                "let n = 0; let add = || n += 1; step(|| { add.call(); add.call(); say(n); }); say(n); add.call(); say(n);",
                "201",
            ),
            (
                "let n = 0; let tools = #{ add: || n += 1 }; step(|| { tools.add.call(); say(n); }); say(n);",
                "10",
            ),
            ("let l = []; let all = [|| l.push(1)]; step(|| { all[0].call(); say(l); }); say(l);", "[1][]"),
        ] {
            assert_eq!(said(script), expected, "{script}");
        }
    }

    #[test]
    fn closure_that_captures_itself_is_copied() {
        assert_eq!(said("let f = || 0; f = || f; step(|| { f = 1; say(f); }); say(type_of(f));"), "1Fn");
    }
}
