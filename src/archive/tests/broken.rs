//! What is damaged, cut off or gone is refused by name, and made up for where something else can.

use object_store::path::Path;

use super::*;

/// Two checkpoints of node a: of 30 and of 40 records.
async fn two(store: &Arc<InMemory>) -> (Place, Source, Manifest, Manifest) {
    let place = place(store);
    let mut source = Source::new();
    source.append(30).checkpoint();
    let (old, ..) = upload(&place, "a", &source).await.unwrap();
    next_millisecond().await;
    source.append(10).checkpoint();
    let (new, ..) = upload(&place, "a", &source).await.unwrap();
    (place, source, old, new)
}

fn object(node: &str, piece: &Piece) -> Path {
    format!("all/of/it/test/{node}/objects/{}", piece.blake3).into()
}

async fn overwrite(store: &InMemory, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = store.get(path).await.unwrap().bytes().await.unwrap().to_vec();
    change(&mut bytes);
    store.put(path, bytes.into()).await.unwrap();
}

/// A way to spoil an object, and what is said of it.
async fn spoil(store: &InMemory, path: &Path, way: usize) -> &'static str {
    match way {
        0 => overwrite(store, path, |bytes| bytes[3] ^= 1).await,
        1 => overwrite(store, path, |bytes| bytes.truncate(5)).await,
        _ => store.delete(path).await.unwrap(),
    }
    ["BLAKE3", "has 5 bytes", "there is no"][way]
}

#[tokio::test]
async fn an_older_checkpoint_stands_in_for_a_spoilt_one() {
    for way in 0..3 {
        let store = Arc::new(InMemory::new());
        let (place, _, old, new) = two(&store).await;
        let piece = new.blocks.last().unwrap();
        let said = spoil(&store, &object("a", piece), way).await;
        let (restored, got) = bring_back(&place, &Wanted::default()).await.unwrap();
        assert_eq!((restored.manifest, got.count()), (old.name(), 30));
        let problem = &restored.problems[0];
        assert!(problem.contains(said) && problem.contains(&piece.blake3), "{way}: {problem}");
        assert!(problem.contains(&new.name().to_string()), "{problem}");
        // Whoever asked for exactly this one gets no other.
        let wanted = Wanted { manifest: Some(new.name()), ..Wanted::default() };
        let error = bring_back(&place, &wanted).await.unwrap_err().to_string();
        assert!(error.contains(said) && error.contains(&piece.blake3), "{way}: {error}");
    }
}

#[tokio::test]
async fn another_nodes_copy_stands_in_for_a_spoilt_object() {
    for way in 0..3 {
        let store = Arc::new(InMemory::new());
        let (place, source, _, new) = two(&store).await;
        upload(&place, "b", &source).await.unwrap();
        spoil(&store, &object("a", &new.blocks[0]), way).await;
        spoil(&store, &object("a", &new.meta), way).await;
        let wanted = Wanted { manifest: Some(new.name()), ..Wanted::default() };
        let (restored, got) = bring_back(&place, &wanted).await.unwrap();
        assert_eq!(got.count(), 40);
        assert_eq!(restored.problems.len(), 2);
        assert!(
            restored.problems.iter().all(|p| p.contains("the copy of b was used")),
            "{:?}",
            restored.problems
        );
        // A copy is believed no more than the original.
        spoil(&store, &object("b", &new.meta), way).await;
        assert!(matches!(bring_back(&place, &wanted).await.unwrap_err(), RestoreError::Damaged(_)));
    }
}

type Spoil = fn(&mut Vec<u8>);

#[tokio::test]
async fn spoilt_manifests_are_passed_over_and_listed_as_such() {
    let ways: [(&str, Spoil); 4] = [
        ("not a manifest", |bytes| bytes.truncate(100)),
        ("not a manifest", Vec::clear),
        ("BLAKE3", |bytes| replace(bytes, "\"lsn\":40", "\"lsn\":39")),
        ("manifest version 2", |bytes| replace(bytes, "\"version\":1", "\"version\":2")),
    ];
    for (said, way) in ways {
        let store = Arc::new(InMemory::new());
        let (place, _, old, new) = two(&store).await;
        let path = format!("all/of/it/{}", new.name().path()).into();
        overwrite(&store, &path, way).await;
        let (restored, _) = bring_back(&place, &Wanted::default()).await.unwrap();
        assert_eq!(restored.manifest, old.name());
        assert!(restored.problems[0].contains(said), "{:?}", restored.problems);
        let listed = list(&place, None).await.unwrap();
        assert!(listed[0].error.as_ref().unwrap().contains(said) && listed[1].error.is_none());
    }
}

fn replace(bytes: &mut Vec<u8>, from: &str, to: &str) {
    *bytes = String::from_utf8(bytes.clone()).unwrap().replacen(from, to, 1).into_bytes();
}

#[tokio::test]
async fn a_manifest_under_anothers_name_is_not_believed() {
    let store = Arc::new(InMemory::new());
    let (place, _, old, new) = two(&store).await;
    let [from, to] = [&old, &new].map(|m| Path::from(format!("all/of/it/{}", m.name().path())));
    store.copy(&from, &to).await.unwrap();
    let (restored, _) = bring_back(&place, &Wanted::default()).await.unwrap();
    assert_eq!(restored.manifest, old.name());
    assert!(restored.problems[0].contains("it is the manifest of"), "{:?}", restored.problems);
}

#[tokio::test]
async fn a_truncated_object_is_sent_again() {
    let store = Arc::new(InMemory::new());
    let (place, source, _, new) = two(&store).await;
    spoil(&store, &object("a", &new.blocks[1]), 1).await;
    let (_, uploaded, _) = upload(&place, "a", &source).await.unwrap();
    assert_eq!(uploaded, 1);
    assert!(bring_back(&place, &Wanted::default()).await.unwrap().0.problems.is_empty());
}

#[tokio::test]
async fn rot_on_the_disk_is_not_archived() {
    let store = Arc::new(InMemory::new());
    let place = place(&store);
    let mut source = Source::new();
    source.append(30).checkpoint();
    let name = "checkpoint-0000000000000030.ckpt";
    let file = crate::store::Disk::open(&source.disk, name).unwrap();
    crate::store::DiskFile::write_at(&*file, 50, &[0xff; 4]).unwrap();
    let error = upload(&place, "a", &source).await.unwrap_err();
    assert!(matches!(error, ArchiveError::Read(_)) && error.to_string().contains(name), "{error}");
    assert!(list(&place, None).await.unwrap().is_empty());
}
