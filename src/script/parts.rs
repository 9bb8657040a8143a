//! What a script consists of: itself and every module that it imports, directly or through another.

use std::collections::BTreeSet;

use anyhow::Result;
use rhai::{ASTNode, Expr, Stmt};

use super::engine::Program;
use super::host::{Host, file_of};

/// The program, and the modules that it imports, each under the name of its file.
pub(super) fn parts(
    engine: &rhai::Engine,
    host: &Host,
    name: &str,
    program: &Program,
) -> Result<Vec<(String, Program)>> {
    let mut seen = BTreeSet::new();
    let mut open = vec![(name.to_owned(), program.clone())];
    let mut parts = Vec::new();
    while let Some((name, program)) = open.pop() {
        for module in imports(&program) {
            if seen.insert(module.clone()) {
                let imported = host.imported(engine, &module)?;
                open.push((file_of(&module), imported));
            }
        }
        parts.push((name, program));
    }
    Ok(parts)
}

/// What a program itself imports by a literal name.
fn imports(program: &Program) -> Vec<String> {
    let mut imports = Vec::new();
    program.ast.walk(&mut |path: &[ASTNode]| {
        if let Some(ASTNode::Stmt(Stmt::Import(import, _))) = path.last()
            && let Expr::StringConstant(module, _) = &import.0
        {
            imports.push(module.to_string());
        }
        true
    });
    imports
}
