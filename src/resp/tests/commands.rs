//! Exact replies, most of them copied from a Redis 7.0.

use super::Bench;
use crate::resp::Limits;
use crate::resp::call::Flow;

const WRONGTYPE: &str = "-WRONGTYPE Operation against a key holding the wrong kind of value";
const NOT_INTEGER: &str = "-ERR value is not an integer or out of range";

#[test]
fn connection() {
    Bench::new().script(&[
        ("ping", "+PONG"),
        ("PiNg hello", "$5 hello"),
        (r#"ping "a\x00b""#, r"$3 a\x00b"),
        ("ping a b", "-ERR wrong number of arguments for 'ping' command"),
        ("echo a", "$1 a"),
        ("echo", "-ERR wrong number of arguments for 'echo' command"),
        ("select 0", "+OK"),
        ("select 1", "-ERR DB index is out of range"),
        ("select a", NOT_INTEGER),
        ("hello 4", "-NOPROTO unsupported protocol version"),
        ("hello a", "-ERR Protocol version is not an integer or out of range"),
        ("hello 3 setname", "-ERR Syntax error in HELLO option 'setname'"),
        ("hello 3 auth a b", "-WRONGPASS invalid username-password pair or user is disabled."),
        ("hello 3 setname \"a b\"", "-ERR Client names cannot contain spaces, newlines or special characters."),
        (
            "hello",
            "*14 $6 server $7 tidings $7 version $5 7.2.0 $5 proto :2 $2 id :1 $4 mode $10 standalone $4 role $6 master $7 modules *0",
        ),
        (
            "hello 3 setname me",
            "%7 $6 server $7 tidings $7 version $5 7.2.0 $5 proto :3 $2 id :1 $4 mode $10 standalone $4 role $6 master $7 modules *0",
        ),
        ("client getname", "$2 me"),
        ("get nokey", "_"),
        ("reset", "+RESET"),
        ("client getname", "$-1"),
        ("quit", "+OK"),
        ("ping", ""),
    ]);
}

#[test]
fn errors_of_form() {
    let mut bench = Bench::new();
    bench.script(&[
        ("foo", "-ERR unknown command 'foo', with args beginning with:"),
        ("foo a \"b\\r\\nc\"", "-ERR unknown command 'foo', with args beginning with: 'a' 'b  c'"),
        ("client|id", "-ERR unknown command 'client|id', with args beginning with:"),
        ("get", "-ERR wrong number of arguments for 'get' command"),
        ("GET a b", "-ERR wrong number of arguments for 'get' command"),
        ("client", "-ERR wrong number of arguments for 'client' command"),
        ("client foo", "-ERR unknown subcommand 'foo'. Try CLIENT HELP."),
        ("client getname a", "-ERR wrong number of arguments for 'client|getname' command"),
        ("config get", "-ERR wrong number of arguments for 'config|get' command"),
    ]);
    let long = "x".repeat(300);
    let cut = &long[..128];
    bench.script(&[(
        &format!("{long} {long} b"),
        &format!("-ERR unknown command '{cut}', with args beginning with: '{cut}'"),
    )]);
    assert_eq!(bench.worker.stats.unknown.get(), 4);
    assert_eq!(bench.worker.stats.errors.get(), 10);
}

#[test]
fn client() {
    let mut bench = Bench::new();
    bench.script(&[
        ("client id", ":1"),
        (
            "client setname a\u{e9}",
            "-ERR Client names cannot contain spaces, newlines or special characters.",
        ),
        ("client setname me", "+OK"),
        ("client setinfo lib-name redis-py", "+OK"),
        ("client setinfo LIB-VER 5.0", "+OK"),
        ("client setinfo lib-foo a", "-ERR Unrecognized option 'lib-foo'"),
        (
            "client setinfo lib-name \"a b\"",
            "-ERR lib-name cannot contain spaces, newlines or special characters.",
        ),
        ("client no-evict on", "+OK"),
        ("client no-evict x", "-ERR syntax error"),
        ("client no-touch off", "+OK"),
        ("client list type foo", "-ERR Unknown client type 'foo'"),
        ("client list type pubsub", "$0"),
        ("client list id 7", "$0"),
        ("client list id x", "-ERR Invalid client ID"),
        ("client list foo", "-ERR syntax error"),
    ]);
    for command in ["client info", "client list", "client list id 1"] {
        let line = bench.ask(command);
        assert!(
            line.contains("id=1 addr=127.0.0.1:50000 laddr=127.0.0.1:7379 fd=-1 name=me age=0"),
            "{line}"
        );
        assert!(line.contains(" flags=Ne db=0 ") && line.contains("lib-name=redis-py lib-ver=5.0"), "{line}");
        assert!(
            line.contains(&format!(" cmd={} ", command.replacen(' ', "|", 1).replace(" id 1", ""))),
            "{line}"
        );
    }
    bench.ask("hello 3");
    assert!(bench.ask("client info").starts_with("=") && bench.ask("client info").contains("txt:id=1"));
}

#[test]
fn strings() {
    Bench::new().script(&[
        ("get a", "$-1"),
        ("set a 1", "+OK"),
        ("get a", "$1 1"),
        ("set a", "-ERR wrong number of arguments for 'set' command"),
        ("set a b foo", "-ERR syntax error"),
        ("set a b nx xx", "-ERR syntax error"),
        ("set a b ex 10", "-ERR expiry options are not supported yet"),
        ("set a b KEEPTTL", "-ERR expiry options are not supported yet"),
        ("set a 2 NX", "$-1"),
        ("set b 2 xx", "$-1"),
        ("set b 2 nx", "+OK"),
        ("set b 3 xx", "+OK"),
        ("set b 4 get", "$1 3"),
        ("set b 5 nx get", "$1 4"),
        ("set c 5 nx get", "$-1"),
        ("get c", "$1 5"),
        ("set d 5 xx get", "$-1"),
        ("set b 6 get get", "$1 4"),
        ("mget a b nokey", "*3 $1 1 $1 6 $-1"),
        ("mset a 1 b", "-ERR wrong number of arguments for 'mset' command"),
        ("mset a x e y", "+OK"),
        ("mget a e", "*2 $1 x $1 y"),
        (r#"set "\x00\r\n\xff" "\x00\r\n\xfe""#, "+OK"),
        (r#"get "\x00\r\n\xff""#, r"$4 \x00 \xfe"),
        ("set empty \"\"", "+OK"),
        ("get empty", "$0"),
    ]);
}

#[test]
fn integers() {
    Bench::new().script(&[
        ("incr n", ":1"),
        ("incrby n 41", ":42"),
        ("get n", "$2 42"),
        ("decr n", ":41"),
        ("decrby n 42", ":-1"),
        ("type n", "+string"),
        ("incrby n 1.5", NOT_INTEGER),
        ("set n 9223372036854775807", "+OK"),
        ("incr n", "-ERR increment or decrement would overflow"),
        ("decrby n -9223372036854775808", "-ERR decrement would overflow"),
        ("set n abc", "+OK"),
        ("incr n", NOT_INTEGER),
        ("set n \" 1\"", "+OK"),
        ("incr n", NOT_INTEGER),
        ("set n 10", "+OK"),
        ("incr n", ":11"),
        ("set n 5 get", "$2 11"),
        ("get n", "$1 5"),
    ]);
}

#[test]
fn sets() {
    let mut bench = Bench::new();
    bench.script(&[
        ("smembers s", "*0"),
        ("scard s", ":0"),
        ("sismember s a", ":0"),
        ("srem s a", ":0"),
        ("sadd s a b a", ":2"),
        ("sadd s a", ":0"),
        ("sismember s a", ":1"),
        ("scard s", ":2"),
        ("get s", WRONGTYPE),
        ("incr s", WRONGTYPE),
        ("set s x get", WRONGTYPE),
        ("mget s", "*1 $-1"),
        ("gcounter.get s", WRONGTYPE),
        ("set str x", "+OK"),
        ("sadd str x", WRONGTYPE),
        ("srem str x", WRONGTYPE),
        ("smembers str", WRONGTYPE),
        ("scard str", WRONGTYPE),
        ("sismember str x", WRONGTYPE),
        ("srem s a nosuch", ":1"),
        ("smembers s", "*1 $1 b"),
        ("srem s b", ":1"),
        ("exists s", ":0"),
    ]);
    let many: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    assert_eq!(bench.ask(&format!("sadd many {}", many.join(" "))), ":100");
    assert!(bench.ask("smembers many").starts_with("*100 "));
    bench.ask("hello 3");
    bench.script(&[("smembers nokey", "~0"), ("scard many", ":100"), ("set many now-a-string", "+OK")]);
    bench.script(&[("type many", "+string")]);
}

#[test]
fn keys() {
    let mut bench = Bench::new();
    bench.script(&[
        ("mset a 1 ab 2 b 3", "+OK"),
        ("sadd s x", ":1"),
        ("gcounter.incrby g 3", ":3"),
        ("exists a a nokey s", ":3"),
        ("type s", "+set"),
        ("type g", "+gcounter"),
        ("type nokey", "+none"),
        ("dbsize", ":5"),
        ("keys b*", "*1 $1 b"),
        ("keys [^abs]", "*1 $1 g"),
        ("scan 0 match b count 100", "*2 $1 0 *1 $1 b"),
        ("scan 0 type set", "*2 $1 0 *1 $1 s"),
        ("scan 0 type foo", "*2 $1 0 *0"),
        ("scan 18446744073709551615", "*2 $1 0 *0"),
        ("scan a", "-ERR invalid cursor"),
        ("scan 0 foo", "-ERR syntax error"),
        ("scan 0 foo bar", "-ERR syntax error"),
        ("scan 0 count 0", "-ERR syntax error"),
        ("scan 0 count a", NOT_INTEGER),
        ("del a nokey s", ":2"),
        ("unlink ab g", ":2"),
        ("dbsize", ":1"),
        ("flushall foo", "-ERR syntax error"),
        ("flushall async", "+OK"),
        ("dbsize", ":0"),
        ("flushdb", "+OK"),
        ("keys *", "*0"),
    ]);
}

#[test]
fn scan_finds_every_key_once() {
    let mut bench = Bench::new();
    for n in 0..1000 {
        bench.ask(&format!("set key-{n} v"));
    }
    let mut found = Vec::new();
    let mut cursor = "0".to_string();
    loop {
        let reply = bench.ask(&format!("scan {cursor} count 37"));
        let mut words = reply.split(' ').skip(2);
        cursor = words.next().unwrap().to_string();
        assert!(cursor.parse::<u64>().unwrap() <= 1 << 53);
        found.extend(words.filter(|w| w.starts_with("key-")).map(str::to_string));
        if cursor == "0" {
            break;
        }
    }
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 1000);
}

#[test]
fn a_large_flush_goes_in_steps() {
    let mut bench = Bench::new();
    for n in 0..2500 {
        bench.ask(&format!("set key-{n} v"));
    }
    bench.talk.feed(&bench.worker, &mut b"flushall\r\nping\r\n".to_vec());
    assert!(matches!(bench.talk.session.flow, Flow::Flush { left: 1500 }));
    assert_eq!(bench.ask("dbsize"), "+OK +PONG :0");
}

#[test]
fn gcounters() {
    Bench::new().script(&[
        ("gcounter.get g", ":0"),
        ("gcounter.incrby g 5", ":5"),
        ("GCOUNTER.INCRBY g 0", ":5"),
        ("gcounter.incrby g -1", "-ERR a G-counter only grows: the increment must not be negative"),
        ("gcounter.incrby g x", NOT_INTEGER),
        ("gcounter.get g", ":5"),
        ("get g", WRONGTYPE),
        ("incr g", WRONGTYPE),
        ("sadd g a", WRONGTYPE),
        ("del g", ":1"),
        ("gcounter.get g", ":0"),
    ]);
}

#[test]
fn ours() {
    let mut bench = Bench::new();
    bench.script(&[
        ("tidings.kind nokey", "*0"),
        ("set a x", "+OK"),
        ("tidings.kind a", "*1 $12 lww_register"),
        ("incr n", ":1"),
        ("tidings.kind n", "*1 $9 pncounter"),
        ("tidings.versions nokey", "*0"),
        ("tidings.peers", "*0"),
    ]);
    let versions = bench.ask("tidings.versions a");
    assert!(versions.starts_with("*1 *10 $5 value $1 x $3 hlc $"), "{versions}");
    assert!(
        versions.contains("$6 origin $2 n1 $3 dot $21 n1@") && versions.contains(":1 $10 content_id $64"),
        "{versions}"
    );
    assert!(bench.ask("tidings.stats").contains("$4 keys :2 "));
}

#[test]
fn server() {
    let mut bench = Bench::new();
    bench.script(&[
        ("config get maxclients", "*2 $10 maxclients $5 10000"),
        ("config get go*", "*2 $6 gossip $2 on"),
        ("config get appendfsync", "*2 $11 appendfsync $2 no"),
        ("config get SAVE nosuch", "*2 $4 save $0"),
        ("config foo", "-ERR unknown subcommand 'foo'. Try CONFIG HELP."),
        ("info foo", "$0"),
        ("set a 1", "+OK"),
        ("info keyspace", "$44 # Keyspace db0:keys=1,expires=0,avg_ttl=0"),
        ("wait a 0", NOT_INTEGER),
        ("tidings.qget a 1", "-ERR wrong number of arguments for 'tidings.qget' command"),
        ("tidings.qget a x 1", NOT_INTEGER),
        ("tidings.qget a 1 x", "-ERR timeout is not an integer or out of range"),
        ("tidings.qget a 0 1", "-ERR number of nodes is not positive"),
        ("tidings.qget a -1 1", "-ERR number of nodes is not positive"),
        ("tidings.qget a 1 0", "-ERR timeout is not positive"),
        ("wait 0 a", "-ERR timeout is not an integer or out of range"),
        ("wait 0 -1", "-ERR timeout is negative"),
    ]);
    let info = bench.ask("info");
    for field in ["redis_version:", "connected_clients:", "used_memory:", "role:master", "or_set:0"] {
        assert!(info.contains(field), "{field}: {info}");
    }
    assert!(bench.ask("info commandstats").contains("cmdstat_set:calls=1"));
    assert!(bench.ask("info everything").contains("cmdstat_info:calls="));
    bench.ask("hello 3");
    bench.script(&[("config get save", "%1 $4 save $0"), ("info foo", "=4 txt:")]);
}

#[test]
fn introspection() {
    let mut bench = Bench::new();
    let spec = "*1 *6 $5 flags *1 +RO $12 begin_search *4 $4 type $5 index $4 spec *2 $5 index :1 \
                $9 find_keys *4 $4 type $5 range $4 spec *6 $7 lastkey :0 $7 keystep :1 $5 limit :0";
    bench.script(&[
        (
            "command info get foo",
            &format!(
                "*2 *10 $3 get :2 *2 +readonly +fast :1 :1 :1 *3 +@read +@string +@fast *0 {spec} *0 *-1"
            ),
        ),
        (
            "command info client|id",
            "*1 *10 $9 client|id :2 *3 +noscript +loading +stale :0 :0 :0 *2 +@connection +@slow *0 *0 *0",
        ),
        (
            "command docs get foo",
            "*2 $3 get *6 $7 summary $22 Get the value of a key $5 since $5 1.0.0 $5 group $6 string",
        ),
        ("command list filterby pattern pin*", "*1 $4 ping"),
        ("command list filterby pattern config*", "*2 $6 config $10 config|get"),
        ("command list foo", "-ERR syntax error"),
        ("command foo", "-ERR unknown subcommand 'foo'. Try COMMAND HELP."),
        ("command count a", "-ERR wrong number of arguments for 'command|count' command"),
    ]);
    let count: usize = bench.ask("command count")[1..].parse().unwrap();
    assert!(bench.ask("command").starts_with(&format!("*{count} *10 ")));
    assert!(bench.ask("command docs").starts_with(&format!("*{} ", count * 2)));
}

#[test]
fn malformed_frames_close() {
    for (frame, error) in [
        ("*a\r\n", "invalid multibulk length"),
        ("*1\r\n:3\r\n", "expected '$', got ':'"),
        ("*1\r\n$-1\r\n", "invalid bulk length"),
        ("get 'a\r\n", "unbalanced quotes in request"),
    ] {
        let mut bench = Bench::new();
        let output = bench.exchange(format!("PING\r\n{frame}PING\r\n").as_bytes());
        assert_eq!(output, format!("+PONG\r\n-ERR Protocol error: {error}\r\n").as_bytes());
        assert!(bench.talk.is_closing() && !bench.talk.may_read());
        assert_eq!(bench.worker.stats.malformed.get(), 1);
    }
}

#[test]
fn browsers_are_shown_the_door() {
    let mut bench = Bench::new();
    let output = bench.exchange(b"POST / HTTP/1.1\r\nHost: localhost:7379\r\n\r\nflushall\r\n");
    assert_eq!(output, b"-ERR Protocol error: this port does not speak HTTP\r\n");
    let mut bench = Bench::new();
    let output = bench.exchange(b"GET / HTTP/1.1\r\nHost: localhost:7379\r\n\r\nflushall\r\n");
    assert_eq!(output.split(|&b| b == b'\n').count(), 3);
    assert!(bench.talk.is_closing());
}

#[test]
fn pipelines_in_any_pieces() {
    let mut stream = Vec::new();
    for n in 0..200 {
        stream.extend_from_slice(format!("*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n${}\r\n", n).as_bytes());
        stream.extend(std::iter::repeat_n(b'v', n));
        stream.extend_from_slice(b"\r\n*2\r\n$3\r\nGET\r\n$3\r\nkey\r\nPING\r\n");
    }
    let whole = Bench::new().exchange(&stream);
    for size in [1, 7, 100, 4096] {
        let mut bench = Bench::new();
        let pieces: Vec<u8> = stream.chunks(size).flat_map(|piece| bench.exchange(piece)).collect();
        assert!(pieces == whole, "in pieces of {size}");
    }
}

#[test]
fn bounds_of_keys_and_values() {
    let mut bench = Bench::new();
    let big = |command: &str, key: usize, value: usize| {
        let mut bytes = format!("*3\r\n${}\r\n{command}\r\n${key}\r\n", command.len()).into_bytes();
        bytes.extend(std::iter::repeat_n(b'k', key));
        bytes.extend_from_slice(format!("\r\n${value}\r\n").as_bytes());
        bytes.extend(std::iter::repeat_n(b'v', value));
        bytes.extend_from_slice(b"\r\n");
        bytes
    };
    assert_eq!(bench.exchange(&big("SET", 65_536, 16 << 20)), b"+OK\r\n");
    assert!(bench.exchange(&big("SET", 65_537, 1)).starts_with(b"-ERR key of 65537 bytes"));
    assert!(bench.exchange(&big("MSET", 65_537, 1)).starts_with(b"-ERR a key is longer than"));
    assert!(bench.exchange(&big("SADD", 1, (1 << 20) + 1)).starts_with(b"-ERR element of 1048577 bytes"));
    let refused = bench.exchange(&big("SET", 1, (16 << 20) + 1));
    assert_eq!(
        refused,
        b"-ERR value of 16777217 bytes is longer than max_value_size, which is 16777216 bytes\r\n"
    );
    let refused = bench.exchange(&big("SET", 1, (32 << 20) + 1));
    assert_eq!(refused, b"-ERR Protocol error: invalid bulk length\r\n");
}

#[test]
fn replies_over_the_bound_end_the_connection() {
    let mut bench = Bench::with(Limits { output: 10_000, ..Limits::default() });
    bench.ask(&format!("set a {}", "x".repeat(900)));
    assert_eq!(bench.exchange(&b"get a\r\n".repeat(11)).len(), 11 * 908);
    bench.exchange(&b"get a\r\n".repeat(12));
    assert!(bench.talk.is_overrun());
    assert_eq!(bench.worker.stats.overrun.get(), 1);
}

#[test]
fn much_output_is_paused_until_it_leaves() {
    let mut bench = Bench::new();
    bench.ask(&format!("set a {}", "x".repeat(60_000)));
    bench.talk.feed(&bench.worker, &mut b"get a\r\n".repeat(100));
    assert!(bench.talk.out.unsent() < 2 << 20 && !bench.talk.can_resume());
    let output = bench.exchange(b"");
    assert_eq!(output.len(), 100 * 60_010);
}
