//! The rules of the house, as tests. Each rule is a function from sources to complaints, and each has a test beside
//! it that shows it complaining of a bad snippet: a rule that cannot fail holds nothing.

mod docs;
mod layers;
mod manners;
mod source;
mod still;

use source::Tree;

/// Runs a rule over the repository.
fn hold(rule: impl Fn(&Tree) -> Vec<String>) {
    let complaints = rule(&Tree::of_this_repository());
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn imports_point_one_way() {
    hold(layers::check);
}

#[test]
fn the_still_zone_is_still() {
    hold(still::check);
}

#[test]
fn nothing_is_left_unfinished() {
    hold(manners::unfinished);
}

#[test]
fn files_and_functions_fit_the_eye() {
    hold(manners::sizes);
}

#[test]
fn every_file_says_what_it_is() {
    hold(manners::openings);
}

#[test]
fn no_path_of_a_machine_is_written_down() {
    hold(manners::machine_paths);
}

#[test]
fn every_dependency_is_explained() {
    hold(docs::dependencies);
}

#[test]
fn every_dependency_is_used() {
    hold(docs::unused);
}

#[test]
fn the_readme_names_every_knob_with_its_default() {
    hold(docs::knobs);
}

#[test]
fn the_documents_name_metrics_that_exist() {
    hold(docs::metrics);
}

#[test]
fn the_documents_name_files_and_functions_that_exist() {
    hold(docs::places);
}

#[test]
fn what_ci_runs_is_what_the_readme_says() {
    hold(docs::ci);
}
