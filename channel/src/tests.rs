//! The channel over an in-memory pipe.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::exec::{ExitStatus, FromGuest, SpawnError, SpawnErrorKind, ToGuest};
use crate::frame::{FrameReader, FrameWriter};
use crate::mux::wire;
use crate::*;

const SOON: Duration = Duration::from_secs(20);

fn pair() -> (Session<HostOpen>, Incoming<GuestOpen>, Session<GuestOpen>, Incoming<HostOpen>) {
    let (h, g) = duplex(64 * 1024);
    let (host, from_guest, driver) = Session::host(h);
    tokio::spawn(driver);
    let (guest, from_host, driver) = Session::guest(g);
    tokio::spawn(driver);
    (host, from_guest, guest, from_host)
}

type Running = tokio::task::JoinHandle<Result<(), ChannelError>>;

/// A host whose peer sends raw bytes.
fn exposed() -> (Session<HostOpen>, Incoming<GuestOpen>, DuplexStream, Running) {
    let (h, raw) = duplex(1024 * 1024);
    let (host, incoming, driver) = Session::host(h);
    (host, incoming, raw, tokio::spawn(driver))
}

fn frame(kind: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_header(&mut out, kind, payload.len(), id);
    out.extend_from_slice(payload);
    out
}

const OPEN_EGRESS: &[u8] = br#"{"open":"endpoint","name":"egress"}"#;

fn exec(argv: &[&str]) -> ExecRequest {
    ExecRequest {
        argv: argv.iter().map(ToString::to_string).collect(),
        env: BTreeMap::new(),
        cwd: None,
        uid: 0,
        gid: 0,
        tty: None,
        stdin: false,
    }
}

/// `true`, `cat`, `yes N` (N kB, half to stderr), `sleep`, and everything else not found.
async fn fake_guest(mut incoming: Incoming<HostOpen>) {
    while let Some((open, stream)) = incoming.next().await {
        let HostOpen::Exec(request) = open else { continue };
        tokio::spawn(async move {
            let (from, to) = tokio::io::split(stream);
            let (mut from, mut to) = (FrameReader::new(from), FrameWriter::new(to));
            match request.argv[0].as_str() {
                "true" => {}
                "yes" => {
                    for i in 0..request.argv[1].parse().unwrap() {
                        let block = [b'y'; 1024];
                        let part = if i % 2 == 0 {
                            FromGuest::Stdout(&block)
                        } else {
                            FromGuest::Stderr(&block)
                        };
                        part.send(&mut to).await.unwrap();
                    }
                }
                "cat" => {
                    while let Some(ToGuest::Stdin(bytes)) = ToGuest::recv(&mut from).await.unwrap()
                    {
                        FromGuest::Stdout(bytes).send(&mut to).await.unwrap();
                    }
                }
                "killed" => {
                    let Some(ToGuest::Resize(size)) = ToGuest::recv(&mut from).await.unwrap()
                    else {
                        panic!()
                    };
                    FromGuest::Exit(ExitStatus::Signal(u8::try_from(size.rows).unwrap()))
                        .send(&mut to)
                        .await
                        .unwrap();
                    return to.shutdown().await.unwrap();
                }
                "sleep" => {
                    let gone = ToGuest::recv(&mut from).await;
                    assert!(matches!(gone, Err(_) | Ok(None | Some(ToGuest::StdinEof))));
                    std::future::pending::<()>().await;
                }
                name => {
                    let error = SpawnError {
                        kind: SpawnErrorKind::NotFound,
                        message: format!("{name}\u{1b}[31m: not found"),
                    };
                    FromGuest::Error(error).send(&mut to).await.unwrap();
                    return to.shutdown().await.unwrap();
                }
            }
            FromGuest::Exit(ExitStatus::Code(0)).send(&mut to).await.unwrap();
            to.shutdown().await.unwrap();
        });
    }
}

fn with_fake_guest() -> Session<HostOpen> {
    let (host, _, _, incoming) = pair();
    tokio::spawn(fake_guest(incoming));
    host
}

mod handshakes {
    use super::*;

    #[tokio::test]
    async fn both_ends_with_the_key_agree_and_leave_the_stream_clean() {
        let (mut h, mut g) = duplex(1024);
        let key = Key::random().unwrap();
        let (a, b) = tokio::join!(host_handshake(&mut h, &key), guest_handshake(&mut g, &key));
        a.unwrap();
        b.unwrap();
        h.write_all(b"next").await.unwrap();
        let mut next = [0; 4];
        g.read_exact(&mut next).await.unwrap();
        assert_eq!(&next, b"next");
    }

    #[tokio::test]
    async fn a_wrong_key_is_refused_on_both_sides() {
        let (mut h, mut g) = duplex(1024);
        let (a, b) = (Key::random().unwrap(), Key::random().unwrap());
        let host = async {
            let result = host_handshake(&mut h, &a).await;
            drop(h);
            result
        };
        let (host, guest) = tokio::join!(host, guest_handshake(&mut g, &b));
        assert!(matches!(host, Err(HandshakeError::WrongKey)));
        assert!(matches!(guest, Err(HandshakeError::WrongKey)));
    }

    #[tokio::test]
    async fn the_host_sends_nothing_made_with_the_key_to_an_unproven_guest() {
        let (mut h, mut g) = duplex(1024);
        let key = Key::random().unwrap();
        let host = async {
            let result = host_handshake(&mut h, &key).await;
            drop(h);
            result
        };
        let guest = async {
            let mut hello = [0; 43];
            g.read_exact(&mut hello).await.unwrap();
            hello[10] = b'G';
            g.write_all(&hello).await.unwrap();
            g.write_all(&[0; 32]).await.unwrap();
            let mut rest = Vec::new();
            g.read_to_end(&mut rest).await.unwrap();
            rest
        };
        let (result, rest) = tokio::join!(host, guest);
        assert!(matches!(result, Err(HandshakeError::WrongKey)));
        assert!(rest.is_empty());
    }

    #[tokio::test]
    async fn a_replayed_guest_is_refused() {
        let key = Key::random().unwrap();
        // Record what an honest guest sends.
        let (mut h, tap_h) = duplex(1024);
        let (mut tap_g, mut g) = duplex(1024);
        let mut recorded = Vec::new();
        let tap = async {
            let (mut from_h, mut to_h) = tokio::io::split(tap_h);
            let mut hello = [0; 43];
            from_h.read_exact(&mut hello).await.unwrap();
            tap_g.write_all(&hello).await.unwrap();
            let mut sent = [0; 43 + 32];
            tap_g.read_exact(&mut sent).await.unwrap();
            to_h.write_all(&sent).await.unwrap();
            recorded.extend_from_slice(&sent);
            let mut proof = [0; 32];
            from_h.read_exact(&mut proof).await.unwrap();
            tap_g.write_all(&proof).await.unwrap();
        };
        let (a, b, ()) =
            tokio::join!(host_handshake(&mut h, &key), guest_handshake(&mut g, &key), tap);
        a.unwrap();
        b.unwrap();
        let (mut h, mut g) = duplex(1024);
        g.write_all(&recorded).await.unwrap();
        assert!(matches!(host_handshake(&mut h, &key).await, Err(HandshakeError::WrongKey)));
    }

    #[tokio::test]
    async fn garbage_another_version_and_a_reflection_are_told_apart() {
        let key = Key::random().unwrap();
        for (bytes, expected) in [
            (b"GET / HTTP/1.1\r\n".to_vec(), "not a bottle"),
            ([b"\0BOTTLE\n".as_slice(), &[9, 0]].concat(), "version 9"),
            ([b"\0BOTTLE\n".as_slice(), &[1, 0, b'H'], &[0; 32]].concat(), "role"),
            (Vec::new(), "closed"),
        ] {
            let (mut h, mut g) = duplex(1024);
            g.write_all(&bytes).await.unwrap();
            g.shutdown().await.unwrap();
            let error = host_handshake(&mut h, &key).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}

mod multiplexer {
    use super::*;

    #[tokio::test]
    async fn half_close_works_both_ways() {
        let (host, mut from_guest, guest, mut from_host) = pair();
        let mut a = host.open(&HostOpen::Shutdown).await.unwrap();
        a.write_all(b"question").await.unwrap();
        a.shutdown().await.unwrap();
        let (_, mut b) = from_host.next().await.unwrap();
        let mut text = String::new();
        b.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "question");
        b.write_all(b"answer").await.unwrap();
        b.shutdown().await.unwrap();
        drop(b);
        text.clear();
        a.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "answer");

        let mut c = guest.open(&GuestOpen::Endpoint { name: EndpointName::GitGate }).await.unwrap();
        let (open, mut d) = from_guest.next().await.unwrap();
        assert_eq!(open, GuestOpen::Endpoint { name: EndpointName::GitGate });
        d.shutdown().await.unwrap();
        text.clear();
        c.read_to_string(&mut text).await.unwrap();
        c.write_all(b"still open").await.unwrap();
        c.shutdown().await.unwrap();
        d.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "still open");
    }

    #[tokio::test]
    async fn a_dropped_stream_is_a_reset_not_an_end_of_file() {
        let (host, _from_guest, _guest, mut from_host) = pair();
        let mut a = host.open(&HostOpen::Shutdown).await.unwrap();
        let (_, mut b) = from_host.next().await.unwrap();
        b.write_all(b"part").await.unwrap();
        tokio::task::yield_now().await;
        let mut part = [0; 4];
        a.read_exact(&mut part).await.unwrap();
        drop(b);
        assert_eq!(
            a.read(&mut part).await.unwrap_err().kind(),
            std::io::ErrorKind::ConnectionReset
        );
        assert_eq!(a.write(b"x").await.unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    }

    /// yamux leaves this writer waiting for ever.
    #[tokio::test]
    async fn a_writer_learns_that_the_reader_half_closed_and_left() {
        let (host, _from_guest, _guest, mut from_host) = pair();
        let mut a = host.open(&HostOpen::Shutdown).await.unwrap();
        let (_, mut b) = from_host.next().await.unwrap();
        b.shutdown().await.unwrap();
        drop(b);
        let endless = async { while a.write_all(&[0; 4096]).await.is_ok() {} };
        timeout(SOON, endless).await.unwrap();
    }

    #[tokio::test]
    async fn an_unread_stream_stalls_no_other_and_holds_one_window() {
        let (host, mut from_guest, guest, mut from_host) = pair();
        tokio::spawn(async move {
            while let Some((_, s)) = from_host.next().await {
                tokio::spawn(echo(s));
            }
        });
        let mut flood =
            guest.open(&GuestOpen::Endpoint { name: EndpointName::Egress }).await.unwrap();
        let (_, unread) = from_guest.next().await.unwrap();
        let written = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = written.clone();
        tokio::spawn(async move {
            let block = vec![0; 1 << 20];
            for _ in 0..200 {
                let mut rest = &block[..];
                while !rest.is_empty() {
                    let n = flood.write(rest).await.unwrap();
                    count.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
                    rest = &rest[n..];
                }
            }
            flood.shutdown().await.unwrap();
        });
        for _ in 0..200 {
            let mut s = host.open(&HostOpen::Shutdown).await.unwrap();
            s.write_all(b"hello").await.unwrap();
            s.shutdown().await.unwrap();
            let mut back = Vec::new();
            timeout(SOON, s.read_to_end(&mut back)).await.unwrap().unwrap();
            assert_eq!(back, b"hello");
        }
        let stuck = written.load(std::sync::atomic::Ordering::Relaxed);
        assert!(stuck <= 2 * mux::INITIAL_WINDOW as usize, "{stuck}");
        // Once read, all of it comes.
        let mut unread = unread.take(200 << 20);
        let n = timeout(SOON, tokio::io::copy(&mut unread, &mut tokio::io::sink()))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(n, 200 << 20);
    }

    async fn echo(s: ChannelStream) {
        let (mut r, mut w) = tokio::io::split(s);
        let _ = tokio::io::copy(&mut r, &mut w).await;
        let _ = w.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn bulk_both_ways_on_many_streams_arrives_intact() {
        let (host, _from_guest, _guest, mut from_host) = pair();
        tokio::spawn(async move {
            while let Some((_, s)) = from_host.next().await {
                tokio::spawn(echo(s));
            }
        });
        let mut all = tokio::task::JoinSet::new();
        for n in 0..20u8 {
            let host = host.clone();
            all.spawn(async move {
                let s = host.open(&HostOpen::Shutdown).await.unwrap();
                let (mut r, mut w) = tokio::io::split(s);
                let data: Vec<u8> = (0..3_000_000u32)
                    .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 ^ n)
                    .collect();
                let sent = data.clone();
                tokio::spawn(async move {
                    w.write_all(&sent).await.unwrap();
                    w.shutdown().await.unwrap();
                });
                let mut back = Vec::new();
                r.read_to_end(&mut back).await.unwrap();
                assert!(back == data);
            });
        }
        timeout(Duration::from_secs(60), all.join_all()).await.unwrap();
    }

    #[tokio::test]
    async fn the_host_parses_endpoint_headers_only_and_resets_the_rest() {
        let (_host, mut incoming, mut raw, _driver) = exposed();
        for (n, header) in [
            &br#"{"open":"exec","argv":["sh"],"uid":0,"gid":0}"#[..],
            br#"{"open":"endpoint","name":"docker"}"#,
            b"\xff",
            b"",
        ]
        .into_iter()
        .enumerate()
        {
            raw.write_all(&frame(1, 2 + 2 * u32::try_from(n).unwrap(), header)).await.unwrap();
        }
        raw.write_all(&frame(1, 100, OPEN_EGRESS)).await.unwrap();
        let (open, _stream) = timeout(SOON, incoming.next()).await.unwrap().unwrap();
        assert_eq!(open, GuestOpen::Endpoint { name: EndpointName::Egress });
        let mut resets = [0; 4 * 8];
        raw.read_exact(&mut resets).await.unwrap();
        assert_eq!(resets[..8], frame(5, 2, b"")[..]);
    }

    #[tokio::test]
    async fn each_violation_ends_the_channel_and_wakes_its_streams() {
        let valid = || frame(1, 2, OPEN_EGRESS);
        for bytes in [
            frame(9, 2, b""),
            frame(1, 1, OPEN_EGRESS), // the host's own parity
            frame(1, 0, OPEN_EGRESS),
            [valid(), valid()].concat(), // an id twice
            frame(1, 2, &[b' '; mux::MAX_GUEST_HEADER + 1]),
            frame(2, 2, b"x"), // never opened
            frame(2, 3, b"x"),
            [valid(), frame(2, 2, b"")].concat(), // an empty frame costs memory and moves nothing
            [valid(), frame(3, 2, &[0; 4])].concat(),
            [valid(), frame(3, 2, &[255; 4])].concat(), // credit overflow
            [valid(), frame(3, 2, b"12345")].concat(),
            [valid(), frame(4, 2, b""), frame(4, 2, b"")].concat(),
            [valid(), frame(4, 2, b""), frame(2, 2, b"x")].concat(),
            [valid(), frame(2, 2, &[0; 32768]), frame(2, 2, &[0; 32768]), frame(2, 2, b"x")]
                .concat(), // beyond the window
            frame(2, 2, &[0; 40000]),
        ] {
            let (host, _incoming, mut raw, driver) = exposed();
            let mut waiting = host.open(&HostOpen::Shutdown).await.unwrap();
            let reader = tokio::spawn(async move { waiting.read_u8().await });
            raw.write_all(&bytes).await.unwrap();
            let end = timeout(SOON, driver).await.unwrap().unwrap();
            assert!(matches!(end, Err(ChannelError::Protocol(_))), "{bytes:?} {end:?}");
            assert!(timeout(SOON, reader).await.unwrap().unwrap().is_err());
            assert!(host.open(&HostOpen::Shutdown).await.is_err());
        }
    }

    #[tokio::test]
    async fn streams_beyond_the_limit_are_reset_and_the_channel_lives() {
        let (_host, mut incoming, mut raw, driver) = exposed();
        let mut held = Vec::new();
        for n in 0..=u32::try_from(mux::MAX_GUEST_STREAMS).unwrap() {
            raw.write_all(&frame(1, 2 + 2 * n, OPEN_EGRESS)).await.unwrap();
        }
        let mut reset = [0; 8];
        raw.read_exact(&mut reset).await.unwrap();
        assert_eq!(reset[..], frame(5, 2 + 2 * 512, b"")[..]);
        for _ in 0..mux::MAX_GUEST_STREAMS {
            held.push(incoming.next().await.unwrap());
        }
        drop(held);
        raw.write_all(&frame(1, 5000, OPEN_EGRESS)).await.unwrap();
        assert!(timeout(SOON, incoming.next()).await.unwrap().is_some());
        assert!(!driver.is_finished());
    }

    /// The guest opens and never reads: what the host owes it must stay bounded.
    #[tokio::test]
    async fn a_guest_that_never_reads_its_refusals_is_cut_off() {
        let (h, mut raw) = duplex(4096);
        let (_host, incoming, driver) = Session::host(h);
        drop(incoming);
        let driver = tokio::spawn(driver);
        let mut id = 2;
        let flood = async {
            loop {
                if raw.write_all(&frame(1, id, OPEN_EGRESS)).await.is_err() {
                    return;
                }
                id += 2;
            }
        };
        timeout(SOON, flood).await.unwrap();
        assert!(matches!(driver.await.unwrap(), Err(ChannelError::Protocol("too many streams"))));
    }

    #[tokio::test]
    async fn open_waits_for_a_slot_and_close_sends_what_is_written() {
        let (host, _from_guest, _guest, mut from_host) = pair();
        let other = HostOpen::Configure(GuestConfig::default());
        let mut held = Vec::new();
        for _ in 0..mux::MAX_HOST_STREAMS {
            held.push(host.open(&other).await.unwrap());
        }
        assert!(timeout(Duration::from_millis(50), host.open(&other)).await.is_err());
        held.pop();
        let mut last = timeout(SOON, host.open(&HostOpen::Shutdown)).await.unwrap().unwrap();
        last.write_all(b"bye").await.unwrap();
        host.close();
        let mut bye = loop {
            let (open, stream) = from_host.next().await.unwrap();
            if open == HostOpen::Shutdown {
                break stream;
            }
        };
        let mut text = [0; 3];
        bye.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"bye");
        assert!(bye.read_u8().await.is_err());
    }
}

mod headers_and_frames {
    use super::*;

    #[tokio::test]
    async fn a_header_over_the_limit_is_refused_before_it_is_read() {
        let (mut a, mut b) = duplex(1024);
        write_header(&mut a, &HostOpen::Shutdown).await.unwrap();
        assert_eq!(read_header::<HostOpen, _>(&mut b, 100).await.unwrap(), HostOpen::Shutdown);
        a.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
        assert!(matches!(
            read_header::<HostOpen, _>(&mut b, 100).await,
            Err(HeaderError::TooLong { .. })
        ));
    }

    #[tokio::test]
    async fn a_frame_over_the_limit_a_cut_one_and_an_unknown_one_are_errors() {
        for (bytes, expected) in [
            (&[16, 1, 0, 1, 0][..], "exceeds"),
            (&[16, 2, 0, 0, 0, 1], "ended inside"),
            (&[99, 0, 0, 0, 0], "kind 99"),
            (&[18, 1, 0, 0, 0, 0], "kind 18"),
        ] {
            let mut reader = FrameReader::new(bytes);
            let error = FromGuest::recv(&mut reader).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}

mod processes {
    use super::*;

    #[tokio::test]
    async fn two_hundred_at_once() {
        let host = with_fake_guest();
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..200 {
            let host = host.clone();
            all.spawn(async move { host.exec(exec(&["true"]), 100, SOON).await.unwrap().status });
        }
        assert!(all.join_all().await.into_iter().all(ExitStatus::success));
    }

    #[tokio::test]
    async fn exit_comes_after_all_of_a_huge_output_while_stdin_stays_open() {
        let host = with_fake_guest();
        let stream = host.open(&HostOpen::Exec(exec(&["yes", "40000"]))).await.unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let (_keep, stdin) = duplex(1);
        let (_control, controls) = mpsc::channel(1);
        let status = timeout(SOON, run_exec(stream, stdin, &mut out, &mut err, controls))
            .await
            .unwrap()
            .unwrap();
        assert!(status.success());
        assert_eq!((out.len(), err.len()), (20_000 << 10, 20_000 << 10));
    }

    #[tokio::test]
    async fn stdin_reaches_the_process_and_its_end_too() {
        let host = with_fake_guest();
        let stream = host.open(&HostOpen::Exec(exec(&["cat"]))).await.unwrap();
        let input: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
        let mut out = Vec::new();
        let (_, controls) = mpsc::channel(1);
        let status =
            run_exec(stream, &input[..], &mut out, tokio::io::sink(), controls).await.unwrap();
        assert!(status.success());
        assert!(out == input);
    }

    #[tokio::test]
    async fn a_size_goes_through_and_a_signal_comes_back_as_128_plus_n() {
        let host = with_fake_guest();
        let stream = host.open(&HostOpen::Exec(exec(&["killed"]))).await.unwrap();
        let (_keep, stdin) = duplex(1);
        let (sizes, changes) = mpsc::channel(1);
        sizes.send(TtySize { rows: 15, cols: 80 }).await.unwrap();
        let status =
            run_exec(stream, stdin, tokio::io::sink(), tokio::io::sink(), changes).await.unwrap();
        assert_eq!(status.code(), 143);
    }

    #[tokio::test]
    async fn failures_are_told_apart_and_the_guests_text_is_made_printable() {
        let host = with_fake_guest();
        let error = host.exec(exec(&["nope"]), 100, SOON).await.unwrap_err();
        assert!(!error.to_string().contains('\u{1b}'));
        assert!(matches!(error, ExecFailure::Spawn(e) if e.code() == 127));
        assert!(matches!(
            host.exec(exec(&["yes", "100"]), 10_000, SOON).await,
            Err(ExecFailure::TooMuchOutput(_))
        ));
        assert!(matches!(
            host.exec(exec(&["sleep"]), 100, Duration::from_millis(50)).await,
            Err(ExecFailure::Deadline(_))
        ));
        assert!(host.exec(exec(&["true"]), 100, SOON).await.unwrap().status.success());
    }

    /// A control socket carries the same bytes as a stream.
    #[tokio::test]
    async fn an_exec_spliced_through_a_socket_is_the_same() {
        let host = with_fake_guest();
        let (mut client, mut server) = duplex(1000);
        tokio::spawn(async move {
            let open: HostOpen = read_header(&mut server, mux::MAX_HOST_HEADER).await.unwrap();
            let mut stream = host.open(&open).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut server, &mut stream).await;
        });
        write_header(&mut client, &HostOpen::Exec(exec(&["yes", "100"]))).await.unwrap();
        let done = exec_capture(client, 1 << 20, SOON).await.unwrap();
        assert_eq!(done.stdout.len() + done.stderr.len(), 100 << 10);
    }
}
