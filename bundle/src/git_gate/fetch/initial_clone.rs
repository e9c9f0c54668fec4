//! The first clone of an upstream: while the mirror still takes its pack in, who wants all of it is
//! sent the same pack as it arrives. Any other request waits until the mirror is whole.
//!
//! What is sent is the file that `git index-pack` writes, whose last bytes it writes once it has
//! found the pack to be sound.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use crate::git_gate::fetch::mirror::Seen;
use crate::git_gate::pkt_line::{self, Pkt};
use crate::git_gate::push::commands::Id;
use crate::git_gate::refusal::{Refusal, Rule};

/// Longest request that is looked at, bytes; a longer one waits.
pub const ASKED: usize = 256 << 10;
/// Between two looks at a file that grows.
const LOOK: Duration = Duration::from_millis(4);
/// Silence after which something is said that means nothing.
const ALIVE: Duration = Duration::from_secs(5);

/// How the first fetch has ended: whether what the upstream said it has is what came.
type Ended = Result<bool, Refusal>;

/// A first fetch that is under way.
#[derive(Debug)]
pub struct First {
    seen: Seen,
    packs: PathBuf,
    ended: watch::Receiver<Option<Ended>>,
}

/// What is to be answered, gitprotocol-v2(5).
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// These pkt-lines.
    Refs(Vec<u8>),
    /// The pack of everything.
    Pack,
}

impl First {
    /// A fetch of what was `seen`, HEAD's branch with it, into the directory `packs`. Its result is
    /// to be sent; a sender that is dropped before has failed.
    #[must_use]
    pub fn new(seen: Seen, packs: PathBuf) -> (Self, watch::Sender<Option<Ended>>) {
        let (tx, ended) = watch::channel(None);
        (Self { seen, packs, ended }, tx)
    }

    /// Waits until the mirror is whole.
    ///
    /// # Errors
    /// As the fetch.
    pub async fn whole(&self) -> Result<(), Refusal> {
        self.ended.clone().wait_for(Option::is_some).await.map_err(|_| given_up())?;
        self.state().unwrap_or_else(|| Err(given_up())).map(drop)
    }

    fn state(&self) -> Option<Ended> {
        let gone = self.ended.has_changed().is_err();
        self.ended.borrow().clone().or_else(|| gone.then(|| Err(given_up())))
    }

    /// The answer to a version 2 `request`; `None` where only the mirror has one.
    #[must_use]
    pub fn answer(&self, request: &[u8]) -> Option<Answer> {
        let mut lines = Vec::new();
        let (mut at, mut flushed) = (0, false);
        while let Ok(Some((pkt, len))) = pkt_line::next(&request[at..]) {
            at += len;
            match pkt {
                Pkt::Data(line) => {
                    lines.push(std::str::from_utf8(line).ok()?.trim_end_matches('\n'))
                }
                Pkt::Delim => {}
                Pkt::Flush => {
                    flushed = true;
                    break;
                }
                Pkt::ResponseEnd => return None,
            }
        }
        if !flushed || at != request.len() {
            return None;
        }
        let ours = |line: &&str| {
            !line.starts_with("agent=")
                && *line != "object-format=sha1"
                && !line.starts_with("session-id=")
        };
        let mut lines = lines.into_iter().filter(ours);
        match lines.next()? {
            "command=ls-refs" => self.list(lines),
            "command=fetch" => self.wants_all(lines).then_some(Answer::Pack),
            _ => None,
        }
    }

    fn list<'a>(&self, lines: impl Iterator<Item = &'a str>) -> Option<Answer> {
        let (mut peel, mut symrefs, mut prefixes) = (false, false, Vec::new());
        for line in lines {
            match line {
                "peel" => peel = true,
                "symrefs" => symrefs = true,
                "unborn" => {}
                _ => prefixes.push(line.strip_prefix("ref-prefix ")?),
            }
        }
        let mut out = Vec::new();
        let Seen { refs, peeled, head } = &self.seen;
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
        Some(Answer::Refs(out))
    }

    /// Whether the pack of a fetch of all refs, by one who had nothing, is the answer.
    fn wants_all<'a>(&self, lines: impl Iterator<Item = &'a str>) -> bool {
        let (mut wants, mut done, mut offsets) = (BTreeSet::new(), false, false);
        for line in lines {
            match line {
                "done" => done = true,
                "ofs-delta" => offsets = true,
                "thin-pack" | "no-progress" | "include-tag" => {}
                _ => match line.strip_prefix("want ").and_then(|id| Id::parse(id.as_bytes())) {
                    Some(id) => drop(wants.insert(id)),
                    None => return false,
                },
            }
        }
        done && offsets && wants.iter().eq(self.seen.refs.values().collect::<BTreeSet<_>>())
    }

    /// The pack as far as it is there; `None` when the fetch ended before it was seen.
    pub async fn pack(&self) -> Option<File> {
        loop {
            let ended = self.state().is_some();
            let found = std::fs::read_dir(&self.packs).into_iter().flatten().filter_map(Result::ok);
            let found = found.map(|e| e.path()).find(|p| {
                p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("tmp_pack_"))
            });
            if let Some(found) = found {
                if let Ok(file) = File::open(found).await {
                    return Some(file);
                }
            }
            if ended {
                return None;
            }
            sleep(LOOK).await;
        }
    }

    /// Sends `pack` as it grows, to its end, in answer to a request for it. `count` is told of
    /// bytes.
    ///
    /// # Errors
    /// [`Rule::Aborted`], or as the fetch; the client was told.
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
        let (mut piece, mut spoke) = (vec![0; pkt_line::MAX - 5], Instant::now());
        loop {
            // Asked first: nothing is written once it has ended.
            let ended = self.state();
            let mut filled = 0;
            while filled < piece.len() {
                match pack
                    .read(&mut piece[filled..])
                    .await
                    .map_err(|e| Refusal::host("read a pack", &e))?
                {
                    0 => break,
                    n => filled += n,
                }
            }
            if filled > 0 {
                pkt_line::band(&mut out, 1, &piece[..filled]);
            }
            match ended {
                _ if filled == piece.len() => {}
                None if spoke.elapsed() > ALIVE => out.extend_from_slice(b"0005\x02"),
                None => {}
                Some(ended) => {
                    let moved = || {
                        Refusal::new(
                            Rule::Upstream,
                            "the upstream changed while it was fetched: clone again",
                        )
                    };
                    let ended = ended.and_then(|same| if same { Ok(()) } else { Err(moved()) });
                    match &ended {
                        Ok(()) => pkt_line::flush(&mut out),
                        Err(refusal) => pkt_line::band(&mut out, 3, refusal.body().as_bytes()),
                    }
                    send(out).await?;
                    return ended;
                }
            }
            if !out.is_empty() {
                spoke = Instant::now();
                send(std::mem::take(&mut out)).await?;
            }
            if filled < piece.len() {
                sleep(LOOK).await;
            }
        }
    }
}

fn given_up() -> Refusal {
    Refusal::new(Rule::Aborted, "the first fetch of the upstream was given up")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn first(packs: &std::path::Path) -> (First, watch::Sender<Option<Ended>>) {
        let refs = |all: &[(&str, &str)]| {
            all.iter().map(|(n, id)| ((*n).to_owned(), Id::parse(id.as_bytes()).unwrap())).collect()
        };
        let seen = Seen {
            refs: refs(&[("refs/heads/main", A), ("refs/tags/v1", B)]),
            peeled: refs(&[("refs/tags/v1", A)]),
            head: Some("refs/heads/main".into()),
        };
        First::new(seen, packs.to_owned())
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
    fn refs_are_listed_as_asked_for() {
        let (first, _ended) = first(std::path::Path::new("/none"));
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
            let Some(Answer::Refs(out)) = first.answer(&asked) else {
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
    fn only_who_wants_all_and_has_nothing_is_sent_the_pack() {
        let (first, _ended) = first(std::path::Path::new("/none"));
        let head = "command=fetch\nagent=git/2\nobject-format=sha1\n\nthin-pack\nno-progress\ninclude-tag\nofs-delta\n";
        let all = format!("want {B}\nwant {A}\n");
        assert_eq!(first.answer(&request(&format!("{head}{all}done"))), Some(Answer::Pack));
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
            assert_eq!(first.answer(&request(&other)), None, "{other}");
        }
        let whole = request(&format!("{head}{all}done"));
        for bad in [
            &b""[..],
            &whole[..whole.len() - 4],
            &whole[..9],
            b"zzzz",
            &[&whole[..], b"0000"].concat(),
        ] {
            assert_eq!(first.answer(bad), None);
        }
    }

    /// What is sent of a pack that is written while it is sent: the pack, whether it ended with a
    /// flush, and the result.
    async fn sent(end: Option<Ended>) -> (usize, bool, Result<(), Refusal>, String) {
        let dir = tempfile::tempdir().unwrap();
        let (first, ended) = first(dir.path());
        let write = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let mut file = std::fs::File::create(dir.path().join("tmp_pack_x")).unwrap();
            for n in 0..20_u8 {
                file.write_all(&vec![n; 10_000]).unwrap();
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            std::fs::rename(dir.path().join("tmp_pack_x"), dir.path().join("pack-x.pack")).unwrap();
            match end {
                Some(end) => drop(ended.send_replace(Some(end))),
                None => drop(ended),
            }
        };
        let (tx, mut rx) = mpsc::channel(4);
        let send = async {
            let pack = first.pack().await.unwrap();
            let mut counted = 0;
            let done = first.send(pack, &tx, |n| counted += n).await;
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
    async fn a_pack_is_passed_on_as_it_grows_and_ends_well_only_when_the_fetch_did() {
        let (len, flushed, done, _) = sent(Some(Ok(true))).await;
        assert!(len == 200_000 && flushed && done.is_ok());
        let failed = Err(Refusal::new(Rule::Upstream, "cut off"));
        for (end, why) in
            [(Some(Ok(false)), "clone again"), (Some(failed), "cut off"), (None, "given up")]
        {
            let (_, flushed, done, said) = sent(end).await;
            assert!(!flushed && done.is_err() && said.contains(why), "{said}");
        }
    }
}
