//! What a new crate holds. That it builds and passes its own test is a test of the command line.

use super::*;

#[test]
fn every_file_of_the_sdk_is_carried() {
    fn walk(folder: &Path, prefix: &str, found: &mut Vec<String>) {
        for entry in folder.read_dir().unwrap() {
            let entry = entry.unwrap();
            let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
            match entry.path().is_dir() {
                true => walk(&entry.path(), &format!("{path}/"), found),
                false => found.push(path),
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sdk"), "", &mut found);
    let mut carried: Vec<&str> = sources::SDK.iter().map(|(path, _)| *path).collect();
    found.retain(|path| !path.starts_with("target/"));
    found.sort_unstable();
    carried.sort_unstable();
    assert_eq!(found, carried);
}

#[test]
fn names_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["", "Clicks", "1st", "a__b", "a-b", "../x", "match", "plumb_sdk", &"a".repeat(64)] {
        let error = new(name, "user", folder.path()).unwrap_err();
        assert_eq!(crate::exit::code_of(&error), 2, "{name}");
    }
    for entity in ["", "User", "online", "batch", "a__b"] {
        assert_eq!(crate::exit::code_of(&new("clicks", entity, folder.path()).unwrap_err()), 2, "{entity}");
    }
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}

#[test]
fn an_existing_folder_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("clicks")).unwrap();
    let error = new("clicks", "user", folder.path()).unwrap_err();
    assert!(error.to_string().contains("exists already"), "{error}");
    assert_eq!(folder.path().join("clicks").read_dir().unwrap().count(), 0);
}

#[test]
fn templates_are_filled_in_whole() {
    let files = files("shop_visits", "shop").unwrap();
    let lib = &files.iter().find(|(path, _)| path == "src/lib.rs").unwrap().1;
    assert!(lib.contains("pub struct ShopVisits;") && lib.contains(r#"&["shop_id"]"#));
    for (path, text) in files.iter().filter(|(path, _)| !path.starts_with("plumb-sdk/sdk/")) {
        for word in ["{name}", "{type}", "{entity", "{key}"] {
            assert!(!text.contains(word), "{word} in {path}");
        }
    }
}

#[test]
fn the_lock_file_has_what_the_sdk_needs_and_no_more() {
    let lock = lock::for_crate("clicks", sources::LOCK).unwrap();
    for name in ["clicks", "plumb-sdk", "plumb-sdk-macros", "syn", "serde_json", "wit-bindgen"] {
        assert!(lock.contains(&format!("name = \"{name}\"\n")), "{name}");
    }
    assert!(!lock.contains("wasmtime"));
}
