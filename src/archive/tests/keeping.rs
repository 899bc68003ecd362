//! What goes from an archive, and what never does.

use super::super::keep::{PruneError, Pruned, prune};
use super::*;

const FOREVER: Duration = Duration::from_secs(1 << 40);

/// An archive with `count` checkpoints of node a, and one of node b.
async fn filled(store: &Arc<InMemory>, count: u32) -> (Place, Source, Vec<ManifestName>) {
    let place = place(store);
    let mut source = Source::new();
    let mut names = Vec::new();
    for _ in 0..count {
        // A block that changes with each checkpoint, and blocks that stay.
        source.append(12).checkpoint();
        names.push(upload(&place, "a", &source).await.unwrap().0.name());
        next_millisecond().await;
    }
    upload(&place, "b", &source).await.unwrap();
    (place, source, names)
}

async fn left(place: &Place, node: &str) -> Vec<ManifestName> {
    super::super::upload::manifests(place, &owner(node)).await.unwrap()
}

#[tokio::test]
async fn the_surplus_goes_and_what_is_kept_is_whole() {
    let store = Arc::new(InMemory::new());
    let (place, _, names) = filled(&store, 5).await;
    let of_b = super::names(&store, "all/of/it/test/b/objects").await;
    let pruned = prune(&place, &owner("a"), (2, FOREVER), wall_millis(), false).await.unwrap();
    assert_eq!(pruned.manifests, 3);
    assert!(pruned.objects >= 3 && pruned.bytes > 0, "{pruned:?}");
    assert_eq!(left(&place, "a").await, names[3..]);
    for name in &names[3..] {
        let wanted = Wanted { manifest: Some(name.clone()), ..Wanted::default() };
        assert!(bring_back(&place, &wanted).await.unwrap().0.problems.is_empty());
    }
    assert_eq!(super::names(&store, "all/of/it/test/b/objects").await, of_b, "another node's");
    assert_eq!(left(&place, "b").await.len(), 1);
    let again = prune(&place, &owner("a"), (2, FOREVER), wall_millis(), true).await.unwrap();
    assert_eq!(again, Pruned::default());
}

#[tokio::test]
async fn the_old_go_and_the_newest_stays() {
    let store = Arc::new(InMemory::new());
    let (place, _, names) = filled(&store, 4).await;
    let second = Duration::from_secs(1);
    let later = names[1].time() + 1_001;
    prune(&place, &owner("a"), (99, second), later, false).await.unwrap();
    assert_eq!(left(&place, "a").await, names[2..]);
    prune(&place, &owner("a"), (99, second), later + 1_000_000_000, false).await.unwrap();
    assert_eq!(left(&place, "a").await, names[3..]);
    let wanted = Wanted { manifest: Some(names[3].clone()), ..Wanted::default() };
    assert_eq!(bring_back(&place, &wanted).await.unwrap().1.count(), 48);
}

#[tokio::test]
async fn nothing_goes_that_an_unreadable_manifest_might_name() {
    let store = Arc::new(InMemory::new());
    let (place, _, names) = filled(&store, 3).await;
    store.put(&format!("all/of/it/{}", names[1].path()).into(), "{".into()).await.unwrap();
    let before = super::names(&store, "all/of/it/test/a/objects").await;
    let error = prune(&place, &owner("a"), (2, FOREVER), wall_millis(), false).await.unwrap_err();
    assert!(matches!(&error, PruneError::Unreadable { name, .. } if *name == names[1]), "{error}");
    assert_eq!(super::names(&store, "all/of/it/test/a/objects").await, before);
}

#[tokio::test]
async fn what_a_broken_off_upload_left_is_swept() {
    let store = Arc::new(InMemory::new());
    let (place, ..) = filled(&store, 2).await;
    store.put(&format!("all/of/it/test/a/objects/{}", "0".repeat(64)).into(), "x".into()).await.unwrap();
    assert_eq!(
        prune(&place, &owner("a"), (9, FOREVER), wall_millis(), false).await.unwrap(),
        Pruned::default()
    );
    let swept = prune(&place, &owner("a"), (9, FOREVER), wall_millis(), true).await.unwrap();
    assert_eq!(swept, Pruned { manifests: 0, objects: 1, bytes: 1 });
}
