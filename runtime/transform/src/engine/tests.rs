use super::*;

#[test]
fn what_is_no_component_is_named() {
    let refused = |bytes: &[u8]| check_layer(bytes).unwrap_err().to_string();
    assert!(refused(b"\0asm\x01\0\0\0").contains("is a core module, not a component: run `plumb build`"));
    assert!(refused(b"\0asm\x09\0\x01\0").contains("another version"));
    assert!(refused(b"PAR1").contains("does not begin like WebAssembly"));
    assert!(refused(&vec![0; MAX_COMPONENT_BYTES + 1]).contains("at most 8388608"));
}

#[test]
fn the_cost_of_every_operator_is_pinned() {
    // Another table moves the verdict "out of fuel": it needs another version of the interface, not another hash here.
    let table = format!("{:?}", operator_cost());
    assert_eq!(Digest::of(table.as_bytes()).short(), "56ab2396");
}
