//! Finds what `import` names: `std/NAME` in the standard library, a plain name beside the script.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use rhai::{EvalAltResult, Module, ModuleResolver, Position, Scope, Shared};

use super::graph::cycle;
use super::host::{Host, Raised, raise_at};

/// Resolves imports from the plan's one root.
pub(super) struct Resolver {
    host: Rc<Host>,
    loaded: RefCell<HashMap<String, Shared<Module>>>,
    loading: RefCell<Vec<String>>,
}

impl Resolver {
    pub(super) fn new(host: Rc<Host>) -> Self {
        Self { host, loaded: RefCell::default(), loading: RefCell::default() }
    }

    fn load(&self, engine: &rhai::Engine, path: &str, position: Position) -> Raised<Shared<Module>> {
        let program = self.host.scripts().module(engine, path);
        let program = program.map_err(|error| raise_at(&self.host, error, position))?;
        let module = Module::eval_ast_as_new(Scope::new(), &program.ast, engine)
            .map_err(|error| Box::new(EvalAltResult::ErrorInModule(program.name.clone(), error, position)))?;
        Ok(module.into())
    }
}

impl ModuleResolver for Resolver {
    fn resolve(
        &self,
        engine: &rhai::Engine,
        _source: Option<&str>,
        path: &str,
        position: Position,
    ) -> Raised<Shared<Module>> {
        if let Some(module) = self.loaded.borrow().get(path) {
            return Ok(Shared::clone(module));
        }
        // An unchanged plan is not checked again, so a cycle of imports must be found here, too.
        if let Some(message) = cycle(&self.loading.borrow(), path) {
            return Err(raise_at(&self.host, anyhow::anyhow!(message), position));
        }
        self.loading.borrow_mut().push(path.to_owned());
        let module = self.load(engine, path, position);
        self.loading.borrow_mut().pop();
        let module = module?;
        self.loaded.borrow_mut().insert(path.to_owned(), Shared::clone(&module));
        Ok(module)
    }
}
