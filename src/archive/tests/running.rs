//! Uploads that fail on the way, and the worker that comes back to them.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};

use super::*;

/// A store of which every write but each fourth fails.
#[derive(Debug)]
struct Flaky {
    inner: Arc<InMemory>,
    puts: AtomicU64,
}

impl fmt::Display for Flaky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("flaky")
    }
}

#[async_trait]
impl ObjectStore for Flaky {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if !self.puts.fetch_add(1, Ordering::Relaxed).is_multiple_of(4) {
            return Err(Error::Generic { store: "flaky", source: "not now".into() });
        }
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn an_upload_goes_on_where_the_last_broke_off() {
    let inner = Arc::new(InMemory::new());
    let flaky = Arc::new(Flaky { inner: Arc::clone(&inner), puts: AtomicU64::new(1) });
    let flaky_place = Place::of(flaky, "all/of/it", "flaky");
    let mut source = Source::new();
    source.append(95).checkpoint().append(60);
    let (mut tries, mut manifest) = (0, None);
    while manifest.is_none() {
        tries += 1;
        assert!(tries < 1_000, "it never comes to an end");
        let there = names(&inner, "all/of/it/test/a/objects").await.len();
        match upload(&flaky_place, "a", &source).await {
            Ok((done, _, skipped)) => {
                assert!(skipped as usize >= there, "what was there was sent again");
                manifest = Some(done);
            }
            Err(error) => {
                assert!(error.to_string().contains("not now"), "{error}");
                assert!(
                    list(&place(&inner), None).await.unwrap().is_empty(),
                    "a manifest before its objects"
                );
            }
        }
    }
    assert!(tries > 3, "{tries}");
    let (restored, got) = bring_back(&place(&inner), &Wanted::default()).await.unwrap();
    assert_eq!(restored.manifest, manifest.unwrap().name());
    assert_eq!(got.count() as u64, restored.last_lsn);
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn archiver(target: Option<PathBuf>, source: &Source) -> Archiver {
    let options = Options { target: target.map(Target::Directory), keep: 2, ..Options::default() };
    Archiver::start(options, owner("a"), source.housekeeper()).unwrap()
}

#[tokio::test]
async fn the_worker_comes_back_to_a_target_that_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (blocker, target) = (dir.path().join("x"), dir.path().join("x/archive"));
    std::fs::write(&blocker, "a file where a directory should be").unwrap();
    let mut source = Source::new();
    source.append(20).checkpoint();
    let archiver = archiver(Some(target.clone()), &source);
    until("failures are counted", || archiver.facts().failures >= 2).await;
    let standing = archiver.standing().unwrap();
    assert!(standing.error.unwrap().contains("cannot make the directory"));
    assert!(standing.manifest.is_none());
    assert!(archiver.backup(None).await.unwrap_err().to_string().contains("cannot make the directory"));
    // The store goes on meanwhile.
    source.append(20).checkpoint();
    until("it tells for how long", || archiver.facts().behind >= 1).await;
    std::fs::remove_file(&blocker).unwrap();
    until("it recovers", || archiver.facts().success_time > 0).await;
    let facts = archiver.facts();
    assert_eq!((facts.behind, archiver.standing().unwrap().error), (0, None));
    let place = Place::open_existing(&Target::Directory(target), &Access::default()).unwrap();
    assert_eq!(bring_back(&place, &Wanted::default()).await.unwrap().1.count(), 40);
    archiver.stop();
}

#[tokio::test]
async fn the_worker_follows_the_store_and_prunes() {
    let dir = tempfile::tempdir().unwrap();
    let target = Target::Directory(dir.path().to_owned());
    let mut source = Source::new();
    let archiver = archiver(Some(dir.path().to_owned()), &source);
    let place = Place::open(&target, &Access::default()).unwrap();
    for round in 1..=4_u64 {
        source.append(12).checkpoint();
        let name = archiver.backup(None).await.unwrap();
        let listed = list(&place, None).await.unwrap();
        assert_eq!((listed[0].name.clone(), listed.len() as u64), (name.to_string(), round.min(2)));
    }
    assert_eq!(archiver.facts().pruned, 2);
    // Segments that fill up later are added to the newest manifest.
    source.append(80);
    until("the log follows", || archiver.facts().behind == 0 && archiver.facts().uploaded > 0).await;
    let listed = || async { list(&place, None).await.unwrap().remove(0) };
    let began = Instant::now();
    while listed().await.segments == 0 {
        assert!(began.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let row = listed().await;
    assert!(row.last_lsn > 48);
    assert_eq!(bring_back(&place, &Wanted::default()).await.unwrap().1.count() as u64, row.last_lsn);
    // A backup elsewhere is whole by itself, and changes nothing here.
    let other = tempfile::tempdir().unwrap();
    let elsewhere = Target::Directory(other.path().to_owned());
    archiver.backup(Some(elsewhere.clone())).await.unwrap();
    let place = Place::open_existing(&elsewhere, &Access::default()).unwrap();
    assert_eq!(bring_back(&place, &Wanted::default()).await.unwrap().1.count() as u64, row.last_lsn);
    let began = Instant::now();
    archiver.stop();
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(matches!(archiver.backup(None).await.unwrap_err(), ArchiveError::Stopping));
}

#[tokio::test]
async fn without_a_target_there_is_nothing_to_tell() {
    let source = Source::new();
    let archiver = archiver(None, &source);
    assert!(archiver.standing().is_none() && !archiver.has_target());
    assert!(archiver.backup(None).await.unwrap_err().to_string().contains("--to"));
    assert_eq!(archiver.facts(), Facts::default());
    archiver.stop();
    archiver.stop();
}
