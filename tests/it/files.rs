//! Files and trees of every name, size and shape.

use crate::support::Place;

#[test]
fn names_that_sort_before_a_dot_or_a_slash_are_copied_mirrored_and_removed() {
    let names = ["+page.svelte", "(auth)/inner", "#x#", "$x", "-rf", " blank", "a/b", "a-b/c", "a.b", "!/!"];
    let place = Place::new(
        r#"
step::run("01", "Copy", || { file::copy("@/from", "@/m/copied"); });
step::run("02", "Mirror", || { file::mirror("@/from", "@/m/mirrored"); });
step::run("03", "Copy from the plan", || { file::copy("files/tree", "@/m/planned"); });
step::run("04", "Access", || { file::access("@/m/copied", #{ mode: "go=", recursive: true }); });
step::run("05", "Remove", || { file::remove("@/m/old"); });
"#,
    );
    for name in names {
        for root in ["from", "plan/files/tree", "m/old"] {
            place.write(&format!("{root}/{name}"), name);
        }
    }
    let before = place.listing("m");
    place.run("plan.rhai").ends(0);
    for name in names {
        for root in ["copied", "mirrored", "planned"] {
            assert_eq!(place.read(&format!("m/{root}/{name}")), name);
        }
    }
    assert!(!place.exists("m/old"));
    place.run("plan.rhai --verify").ends(0);
    place.run("rollback").ends(0);
    assert_eq!(place.listing("m"), before);
}
