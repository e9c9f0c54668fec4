//! The initial clone: while the mirror is still receiving the upstream's pack, a client that clones
//! everything is sent the same pack as it arrives. All other requests wait until the mirror is
//! complete.
//!
//! What is sent is the file that `git index-pack` writes. index-pack writes its last bytes only
//! after it has found the pack to be sound.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::upstream_refs::UpstreamRefs;
use crate::git_gate::object_id::ObjectId;
use crate::git_gate::pkt_line::{self, BAND_DATA, BAND_ERROR, KEEP_ALIVE, MAX_BAND_BYTES, Pkt};
use crate::git_gate::refusal::{Refusal, Rule};

/// Longest request that can be answered during the initial clone, in bytes; a longer one waits.
pub const MAX_REQUEST_BYTES: usize = 256 << 10;
/// Interval at which the growing pack is read.
const POLL_INTERVAL: Duration = Duration::from_millis(4);
/// Send a keep-alive packet after this much silence.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// How the fetch ended: whether the mirror has exactly the refs that the upstream listed before.
type FetchResult = Result<bool, Refusal>;

/// An initial clone in progress.
#[derive(Debug)]
pub struct InitialClone {
    upstream: UpstreamRefs,
    packs: PathBuf,
    result: watch::Receiver<Option<FetchResult>>,
}

/// What a request can be answered with, gitprotocol-v2(5).
#[derive(Debug, PartialEq, Eq)]
pub enum CloneReply {
    /// These pkt-lines, a list of refs.
    Refs(Vec<u8>),
    /// The pack of everything.
    Pack,
}

impl InitialClone {
    /// A fetch of `upstream`, which has the branch of its HEAD, into the directory `packs`. The
    /// result is to be sent to the returned sender. If that is dropped, the fetch has failed.
    #[must_use]
    pub fn new(
        upstream: UpstreamRefs,
        packs: PathBuf,
    ) -> (Self, watch::Sender<Option<FetchResult>>) {
        let (tx, result) = watch::channel(None);
        (Self { upstream, packs, result }, tx)
    }

    /// Waits until the mirror is complete.
    ///
    /// # Errors
    /// Why the fetch failed.
    pub async fn complete(&self) -> Result<(), Refusal> {
        self.result.clone().wait_for(Option::is_some).await.map_err(|_| cancelled())?;
        self.result().unwrap_or_else(|| Err(cancelled())).map(drop)
    }

    /// The result, once there is one.
    fn result(&self) -> Option<FetchResult> {
        let dropped = self.result.has_changed().is_err();
        self.result.borrow().clone().or_else(|| dropped.then(|| Err(cancelled())))
    }

    /// The reply to a request of protocol version 2; `None` if only the complete mirror can answer.
    #[must_use]
    pub fn reply(&self, request: &[u8]) -> Option<CloneReply> {
        let lines = request_lines(request)?;
        let relevant = |line: &&str| {
            !line.starts_with("agent=")
                && *line != "object-format=sha1"
                && !line.starts_with("session-id=")
        };
        let mut lines = lines.into_iter().filter(relevant);
        match lines.next()? {
            "command=ls-refs" => self.list_refs(lines),
            "command=fetch" => self.wants_everything(lines).then_some(CloneReply::Pack),
            _ => None,
        }
    }

    fn list_refs<'a>(&self, arguments: impl Iterator<Item = &'a str>) -> Option<CloneReply> {
        let (mut peel, mut symrefs, mut prefixes) = (false, false, Vec::new());
        for argument in arguments {
            match argument {
                "peel" => peel = true,
                "symrefs" => symrefs = true,
                "unborn" => {}
                _ => prefixes.push(argument.strip_prefix("ref-prefix ")?),
            }
        }
        let mut out = Vec::new();
        let UpstreamRefs { refs, peeled, head } = &self.upstream;
        let head = head.as_deref()?;
        for (name, id) in refs
            .get(head)
            .map(|id| ("HEAD", id))
            .into_iter()
            .chain(refs.iter().map(|(name, id)| (name.as_str(), id)))
        {
            if !prefixes.is_empty() && !prefixes.iter().any(|p| name.starts_with(p)) {
                continue;
            }
            let mut line = format!("{id} {name}");
            if symrefs && name == "HEAD" {
                line += &format!(" symref-target:{head}");
            }
            if let Some(peeled) = peeled.get(name).filter(|_| peel) {
                line += &format!(" peeled:{peeled}");
            }
            pkt_line::data(&mut out, (line + "\n").as_bytes());
        }
        pkt_line::flush(&mut out);
        Some(CloneReply::Refs(out))
    }

    /// Whether a fetch with these arguments is of all refs, by a client that has nothing yet.
    fn wants_everything<'a>(&self, arguments: impl Iterator<Item = &'a str>) -> bool {
        let (mut wants, mut done, mut offsets) = (BTreeSet::new(), false, false);
        for argument in arguments {
            match argument {
                "done" => done = true,
                "ofs-delta" => offsets = true,
                "thin-pack" | "no-progress" | "include-tag" => {}
                _ => match argument
                    .strip_prefix("want ")
                    .and_then(|id| ObjectId::parse(id.as_bytes()))
                {
                    Some(id) => drop(wants.insert(id)),
                    None => return false,
                },
            }
        }
        done && offsets && wants.iter().eq(self.upstream.refs.values().collect::<BTreeSet<_>>())
    }

    /// Waits for the pack's file, which may still grow; `None` if the fetch ended before that.
    pub async fn pack(&self) -> Option<File> {
        loop {
            let ended = self.result().is_some();
            let files = std::fs::read_dir(&self.packs).into_iter().flatten().flatten();
            let partial = files.map(|e| e.path()).find(|p| {
                p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("tmp_pack_"))
            });
            if let Some(partial) = partial {
                if let Ok(file) = File::open(partial).await {
                    return Some(file);
                }
            }
            if ended {
                return None;
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Sends `pack` as it grows, to its end. `count` is called with the bytes of each message.
    ///
    /// # Errors
    /// [`Rule::Aborted`], or why the fetch failed, which the client was told.
    pub async fn send(
        &self,
        mut pack: File,
        to: &mpsc::Sender<Bytes>,
        mut count: impl FnMut(u64),
    ) -> Result<(), Refusal> {
        let mut send = async |bytes: Vec<u8>| {
            count(bytes.len() as u64);
            let gone = |_| {
                Refusal::new(Rule::Aborted, "the bottle closed the connection inside the answer")
            };
            to.send(bytes.into()).await.map_err(gone)
        };
        let mut out = Vec::new();
        pkt_line::data(&mut out, b"packfile\n");
        let (mut piece, mut last_sent) = (vec![0; MAX_BAND_BYTES], Instant::now());
        loop {
            // Read the result before the file: nothing is written to the file after the end.
            let result = self.result();
            let filled = read_available(&mut pack, &mut piece).await?;
            if filled > 0 {
                pkt_line::band(&mut out, BAND_DATA, &piece[..filled]);
            }
            let at_end_of_file = filled < piece.len();
            if let Some(result) = result.filter(|_| at_end_of_file) {
                let result = result.and_then(|unchanged| if unchanged { Ok(()) } else { moved() });
                match &result {
                    Ok(()) => pkt_line::flush(&mut out),
                    Err(refusal) => {
                        pkt_line::band(&mut out, BAND_ERROR, refusal.body().as_bytes());
                    }
                }
                send(out).await?;
                return result;
            }
            if at_end_of_file && last_sent.elapsed() > KEEP_ALIVE_INTERVAL {
                out.extend_from_slice(KEEP_ALIVE);
            }
            if !out.is_empty() {
                last_sent = Instant::now();
                send(std::mem::take(&mut out)).await?;
            }
            if at_end_of_file {
                sleep(POLL_INTERVAL).await;
            }
        }
    }
}

/// The lines of a request; `None` unless it is exactly one complete request of text lines.
fn request_lines(request: &[u8]) -> Option<Vec<&str>> {
    let mut lines = Vec::new();
    let mut at = 0;
    while let Ok(Some((pkt, len))) = pkt_line::next(&request[at..]) {
        at += len;
        match pkt {
            Pkt::Data(line) => lines.push(std::str::from_utf8(line).ok()?.trim_end_matches('\n')),
            Pkt::Delim => {}
            Pkt::Flush => return (at == request.len()).then_some(lines),
            Pkt::ResponseEnd => return None,
        }
    }
    None
}

/// Fills `piece` from `file` as far as it goes. Returns the count of bytes.
async fn read_available(file: &mut File, piece: &mut [u8]) -> Result<usize, Refusal> {
    let mut filled = 0;
    while filled < piece.len() {
        match file.read(&mut piece[filled..]).await.map_err(|e| Refusal::host("read a pack", &e))? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}

fn cancelled() -> Refusal {
    Refusal::new(Rule::Aborted, "the initial clone of the upstream was cancelled")
}

fn moved() -> Result<(), Refusal> {
    Err(Refusal::new(Rule::Upstream, "the upstream changed during the initial clone: clone again"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn initial_clone(
        packs: &std::path::Path,
    ) -> (InitialClone, watch::Sender<Option<FetchResult>>) {
        let refs = |all: &[(&str, &str)]| {
            all.iter()
                .map(|(n, id)| ((*n).to_owned(), ObjectId::parse(id.as_bytes()).unwrap()))
                .collect()
        };
        let upstream = UpstreamRefs {
            refs: refs(&[("refs/heads/main", A), ("refs/tags/v1", B)]),
            peeled: refs(&[("refs/tags/v1", A)]),
            head: Some("refs/heads/main".into()),
        };
        InitialClone::new(upstream, packs.to_owned())
    }

    fn request(lines: &str) -> Vec<u8> {
        let mut out = Vec::new();
        for line in lines.split('\n') {
            if line.is_empty() {
                out.extend(b"0001")
            } else {
                pkt_line::data(&mut out, format!("{line}\n").as_bytes())
            }
        }
        pkt_line::flush(&mut out);
        out
    }

    #[test]
    fn the_refs_are_listed_that_the_request_selects() {
        let (clone, _result) = initial_clone(std::path::Path::new("/none"));
        for (asked, said) in [
            ("", format!("{A} HEAD|{A} refs/heads/main|{B} refs/tags/v1|")),
            (
                "\nsymrefs\npeel\nunborn",
                format!(
                    "{A} HEAD symref-target:refs/heads/main|{A} refs/heads/main|{B} refs/tags/v1 peeled:{A}|"
                ),
            ),
            ("\nref-prefix refs/tags/", format!("{B} refs/tags/v1|")),
            ("\nref-prefix refs/none/", String::new()),
        ] {
            let asked =
                request(&format!("command=ls-refs\nagent=git/2\nobject-format=sha1{asked}"));
            let Some(CloneReply::Refs(out)) = clone.reply(&asked) else {
                panic!("no answer to {asked:?}")
            };
            let (mut at, mut text) = (0, String::new());
            while let Ok(Some((Pkt::Data(line), len))) = pkt_line::next(&out[at..]) {
                text += &String::from_utf8_lossy(line).replace('\n', "|");
                at += len;
            }
            assert_eq!(text, said);
        }
    }

    #[test]
    fn only_a_full_clone_is_sent_the_pack() {
        let (clone, _result) = initial_clone(std::path::Path::new("/none"));
        let head = "command=fetch\nagent=git/2\nobject-format=sha1\n\nthin-pack\nno-progress\ninclude-tag\nofs-delta\n";
        let all = format!("want {B}\nwant {A}\n");
        assert_eq!(clone.reply(&request(&format!("{head}{all}done"))), Some(CloneReply::Pack));
        for other in [
            format!("{head}{all}"),
            format!("{head}want {A}\ndone"),
            format!("{head}{all}want {}\ndone", "c".repeat(40)),
            format!("{head}{all}have {A}\ndone"),
            format!("{head}{all}deepen 1\ndone"),
            format!("{head}{all}filter blob:none\ndone"),
            format!("{head}{all}shallow {A}\ndone"),
            format!("{head}{all}want-ref refs/heads/main\ndone"),
            format!("{head}{all}wait-for-done\ndone"),
            format!("{}{all}done", head.replace("ofs-delta\n", "")),
            format!("{head}want {}\ndone", "A".repeat(40)),
            "command=object-info".into(),
            "command=ls-refs\nwhat".into(),
        ] {
            assert_eq!(clone.reply(&request(&other)), None, "{other}");
        }
        let whole = request(&format!("{head}{all}done"));
        for bad in [
            &b""[..],
            &whole[..whole.len() - 4],
            &whole[..9],
            b"zzzz",
            &[&whole[..], b"0000"].concat(),
        ] {
            assert_eq!(clone.reply(bad), None);
        }
    }

    /// Sends a pack while it is written. Returns the bytes of pack data, whether the response ended
    /// with a flush, the result, and the error message.
    async fn sent(end: Option<FetchResult>) -> (usize, bool, Result<(), Refusal>, String) {
        let dir = tempfile::tempdir().unwrap();
        let (clone, result) = initial_clone(dir.path());
        let write = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let mut file = std::fs::File::create(dir.path().join("tmp_pack_x")).unwrap();
            for n in 0..20_u8 {
                file.write_all(&vec![n; 10_000]).unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            std::fs::rename(dir.path().join("tmp_pack_x"), dir.path().join("pack-x.pack")).unwrap();
            match end {
                Some(end) => drop(result.send_replace(Some(end))),
                None => drop(result),
            }
        };
        let (tx, mut rx) = mpsc::channel(4);
        let send = async {
            let pack = clone.pack().await.unwrap();
            let mut counted = 0;
            let done = clone.send(pack, &tx, |n| counted += n).await;
            drop(tx);
            (done, counted)
        };
        let take = async {
            let mut all = Vec::new();
            while let Some(bytes) = rx.recv().await {
                all.extend(bytes);
            }
            all
        };
        let ((), (done, counted), all) = tokio::join!(write, send, take);
        assert_eq!(counted, all.len() as u64);
        let (mut at, mut pack, mut said, mut flushed) = (0, Vec::new(), String::new(), false);
        while let Ok(Some((line, len))) = pkt_line::next(&all[at..]) {
            at += len;
            match line {
                Pkt::Data([1, bytes @ ..]) => pack.extend_from_slice(bytes),
                Pkt::Data([3, bytes @ ..]) => said = String::from_utf8_lossy(bytes).into_owned(),
                Pkt::Data(line) => assert_eq!(line, b"packfile\n"),
                Pkt::Flush => flushed = true,
                Pkt::Delim | Pkt::ResponseEnd => panic!("no separator belongs here"),
            }
        }
        assert!(pack.chunks(10_000).zip(0..).all(|(piece, n)| piece.iter().all(|b| *b == n)));
        (pack.len(), flushed, done, said)
    }

    #[tokio::test]
    async fn a_pack_is_passed_on_as_it_grows_and_ends_with_the_result_of_the_fetch() {
        let (len, flushed, done, _) = sent(Some(Ok(true))).await;
        assert!(len == 200_000 && flushed && done.is_ok());
        let failed = Err(Refusal::new(Rule::Upstream, "cut off"));
        for (end, why) in
            [(Some(Ok(false)), "clone again"), (Some(failed), "cut off"), (None, "cancelled")]
        {
            let (_, flushed, done, said) = sent(end).await;
            assert!(!flushed && done.is_err() && said.contains(why), "{said}");
        }
    }
}
