//! Bodies on their way into a part file on a real disk, two side by side.

#![allow(clippy::disallowed_methods, reason = "the world is what is tested here")]

use std::fs;

use futures_util::future::join;
use proptest::prelude::*;

use super::*;
use crate::os::disk::OsDisk;
use crate::ports::{
    Blocking, BoxFuture, Clock, Disk, Entropy, HttpRequest, HttpResponse, Net, NetError, WallMs,
};

struct Nothing;

impl Net for Nothing {
    fn send(&self, _request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, NetError>> {
        unreachable!("bodies are brought along")
    }
}

impl Clock for Nothing {
    fn now(&self) -> WallMs {
        WallMs(0)
    }
    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
    fn sleep(&self, _span: Duration) -> BoxFuture<'static, ()> {
        unreachable!("nothing waits")
    }
}

impl Entropy for Nothing {
    fn token(&self) -> [u8; 16] {
        [0; 16]
    }
    fn seed(&self) -> u64 {
        0
    }
}

/// Pieces that come in order; then the end, or a break.
struct Pieces {
    left: Vec<Bytes>,
    breaks: bool,
}

impl Pieces {
    fn boxed(content: &[u8], piece: usize, breaks: bool) -> Box<dyn ResponseBody> {
        let left = content.chunks(piece).rev().map(Bytes::copy_from_slice).collect();
        Box::new(Self { left, breaks })
    }
}

impl ResponseBody for Pieces {
    fn chunk(&mut self) -> BoxFuture<'_, Result<Option<Bytes>, NetError>> {
        Box::pin(async {
            // The other exchange has its turn.
            tokio::task::yield_now().await;
            match self.left.pop() {
                None if self.breaks => {
                    Err(NetError { kind: NetErrorKind::Broken, message: "cut".to_owned() })
                }
                piece => Ok(piece),
            }
        })
    }
}

struct Bench {
    dir: tempfile::TempDir,
    ports: Ports,
    file: Arc<dyn File>,
    progress: Arc<Progress>,
}

impl Bench {
    fn new(content: &[u8]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("part"), content).expect("written");
        let disk = OsDisk::default();
        let file = disk.open_write(&dir.path().join("part")).expect("opened");
        let ports = Ports {
            net: Arc::new(Nothing),
            disk: Arc::new(disk),
            clock: Arc::new(Nothing),
            entropy: Arc::new(Nothing),
            blocking: Blocking::Inline,
        };
        Self { dir, ports, file, progress: Arc::default() }
    }

    fn content(&self) -> Vec<u8> {
        fs::read(self.dir.path().join("part")).expect("readable")
    }

    fn download(&self, lane: u16, offset: u64, limit: Option<u64>, within: bool) -> Download {
        Download {
            pace: Pace::default(),
            lane,
            file: Arc::clone(&self.file),
            offset,
            limit,
            within,
            share: 2,
            progress: Arc::clone(&self.progress),
            gate: Gate::default(),
        }
    }

    /// Stores a body; gives every extent that was told, the last one too, and how it ended.
    async fn store(
        &self,
        download: Download,
        body: Box<dyn ResponseBody>,
    ) -> (Vec<Range<u64>>, Option<NetErrorKind>) {
        let mut extents = Vec::new();
        let end = download.run(&self.ports, body, |extent| extents.push(extent)).await;
        match end {
            End::Whole(last) => (with(extents, last), None),
            End::Lost(last, kind, _) => (with(extents, last), Some(kind)),
            End::Fault(fault) => panic!("{fault:?}"),
        }
    }
}

fn with(mut extents: Vec<Range<u64>>, last: Range<u64>) -> Vec<Range<u64>> {
    extents.push(last);
    extents
}

/// The extents follow one another; gives what they cover together.
fn covered(extents: &[Range<u64>]) -> Range<u64> {
    for pair in extents.windows(2) {
        assert_eq!(pair[0].end, pair[1].start, "{extents:?}");
    }
    extents[0].start..extents[extents.len() - 1].end
}

fn pattern(len: usize, salt: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251 + salt) as u8).collect()
}

#[tokio::test]
async fn a_store_within_leaves_what_lies_around_it() {
    let bench = Bench::new(&[0xaa; 100]);
    let body = Pieces::boxed(&[1; 50], 7, false);
    let (extents, lost) = bench.store(bench.download(1, 20, Some(30), true), body).await;
    assert_eq!((covered(&extents), lost), (20..50, None));
    let expected = [[0xaa; 20].as_slice(), &[1; 30], &[0xaa; 50]].concat();
    assert_eq!(bench.content(), expected, "the body went on and was cut; the rest stays");
}

#[tokio::test]
async fn a_store_of_a_single_stream_cuts_what_lies_behind_it() {
    let bench = Bench::new(&[0xaa; 100]);
    let (extents, _) =
        bench.store(bench.download(0, 20, Some(30), false), Pieces::boxed(&[1; 30], 7, false)).await;
    assert_eq!(covered(&extents), 20..50);
    assert_eq!(bench.content(), [[0xaa; 20].as_slice(), &[1; 30]].concat());
}

#[tokio::test]
async fn a_body_that_ends_early_is_lost_and_what_came_is_told() {
    let bench = Bench::new(&[0; 100]);
    for breaks in [false, true] {
        let (extents, lost) =
            bench.store(bench.download(1, 20, Some(30), true), Pieces::boxed(&[1; 10], 3, breaks)).await;
        assert_eq!((covered(&extents), lost), (20..30, Some(NetErrorKind::Broken)));
    }
    assert_eq!(bench.content().len(), 100, "its length is not given up");
}

#[test]
fn exchanges_side_by_side_share_their_buffers() {
    for lanes in 1..=32 {
        let sync_bytes = SYNC_BYTES / lanes;
        let in_hand = lanes * (QUEUE as u64 + 2) * buffer_len(sync_bytes) as u64;
        assert!(in_hand <= SYNC_BYTES, "{in_hand} bytes in {lanes} lanes");
    }
    assert_eq!(buffer_len(SYNC_BYTES), WRITE_BUFFER);
    assert_eq!(buffer_len(0), WRITE_BUFFER_MIN);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn two_stores_side_by_side_make_one_file(
        len in 1usize..12 << 20,
        middle in 0usize..1000,
        pieces in (1000usize..3 << 20, 1000usize..3 << 20),
        broken in any::<bool>(),
    ) {
        let whole = pattern(len, 0);
        let middle = len * middle / 1000;
        let bench = Bench::new(&vec![0xee; len]);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        // The second body breaks off half-way, or comes whole.
        let tail = &whole[middle..];
        let came = if broken { &tail[..tail.len() / 2] } else { tail };
        let ((first, _), (second, lost)) = runtime.block_on(join(
            bench.store(
                bench.download(0, 0, Some(middle as u64), true),
                Pieces::boxed(&whole, pieces.0, false),
            ),
            bench.store(
                bench.download(1, middle as u64, Some(tail.len() as u64), true),
                Pieces::boxed(came, pieces.1, broken),
            ),
        ));
        let until = middle + came.len();
        prop_assert_eq!(lost.is_some(), broken);
        prop_assert_eq!(covered(&first), 0..middle as u64);
        prop_assert_eq!(covered(&second), middle as u64..until as u64);
        let content = bench.content();
        prop_assert_eq!(content.len(), len);
        prop_assert!(content[..until] == whole[..until], "what was told as durable is not there");
        prop_assert!(content[until..].iter().all(|byte| *byte == 0xee), "written past what came");
    }
}
