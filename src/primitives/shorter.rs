//! Functions that can be called without their last parameters.

use std::any::TypeId;
use std::rc::Rc;

use rhai::plugin::{FnManifestEntry, ModuleManifest, PluginFunc};
use rhai::{Array, Dynamic, FuncRegistration, Map, Module, NativeCallContext, RhaiFunc};

use crate::script::manual::SHORTER;

/// The namespace of a manifest. The functions of these names can also be called without that many of their last
/// parameters, each a map or an array: an empty one takes the place of what is left out.
pub(super) fn namespace(manifest: &'static ModuleManifest, can_leave_out: &[(&str, usize)]) -> Module {
    let mut module = Module::from_manifest(manifest);
    for function in manifest.functions() {
        let Some((_, most)) = can_leave_out.iter().find(|(name, _)| *name == function.name()) else {
            continue;
        };
        for left_out in 1..=*most {
            function.with_param_types(&mut |types| add(&mut module, function, types, left_out));
        }
    }
    module
}

fn add(module: &mut Module, function: &'static FnManifestEntry, types: &[TypeId], left_out: usize) {
    let (kept, left_out) = types.split_at(types.len() - left_out);
    let are_arrays = left_out.iter().map(|kind| *kind == TypeId::of::<Array>()).collect();
    let func = RhaiFunc::Plugin { func: Rc::new(Shorter { function: function.func(), are_arrays }) };
    FuncRegistration::new(function.name())
        .with_namespace(function.namespace())
        .with_comments([SHORTER])
        .set_into_module_raw(module, kept, func);
}

/// A function called without its last parameters.
struct Shorter {
    function: &'static (dyn PluginFunc + Send + Sync),
    /// Whether each parameter that is left out is an array.
    are_arrays: Vec<bool>,
}

impl PluginFunc for Shorter {
    fn call(
        &self,
        context: Option<NativeCallContext>,
        arguments: &mut [&mut Dynamic],
    ) -> rhai::plugin::RhaiResult {
        let empty = |is_array: &bool| {
            if *is_array { Dynamic::from_array(Array::new()) } else { Dynamic::from_map(Map::new()) }
        };
        let mut left_out: Vec<Dynamic> = self.are_arrays.iter().map(empty).collect();
        let given = arguments.iter_mut().map(|argument| &mut **argument);
        let mut arguments: Vec<&mut Dynamic> = given.chain(&mut left_out).collect();
        self.function.call(context, &mut arguments)
    }

    fn is_method_call(&self) -> bool {
        self.function.is_method_call()
    }

    fn has_context(&self) -> bool {
        self.function.has_context()
    }

    fn is_pure(&self) -> bool {
        self.function.is_pure()
    }

    fn is_volatile(&self) -> bool {
        self.function.is_volatile()
    }
}
