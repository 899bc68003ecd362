//! push: news, with the ops themselves where they are small and fresh.
//!
//! A write of ours goes to every linked peer at once if the link is idle, else
//! with the next batch. What we have of others is announced without ops, a
//! little later: their origin has most likely sent them itself.

use tidings_proto::message::Push;
use tidings_proto::{Message, Run, SeenEntries};

use super::bounds;
use super::link::{Gossip, Link, LinkId, Now};
use super::pull::Source;
use super::replica::Replica;

/// How long to wait before announcing to others what a peer sent; microseconds.
const RELAY_DELAY: u64 = 25_000;

/// A peer that lacks more own ops than this is told of them and pulls.
const INLINE_OPS: u64 = 1 << 16;

impl Gossip {
    /// Sees to it that news leaves: own writes and what came from `from` soon,
    /// what others may have from elsewhere a little later.
    pub(super) fn plan_push(&mut self, now: Now, own_news: bool, from: Option<LinkId>) {
        let window = self.settings.push_window;
        for (id, link) in &mut self.links {
            let soon = now.mono.max(link.pushed_at + window);
            let at = if own_news || from == Some(*id) { soon } else { soon.max(now.mono + RELAY_DELAY) };
            link.news_at = Some(link.news_at.map_or(at, |planned| planned.min(at)));
        }
    }

    /// Pushes on every link on which a push is due.
    pub(super) fn push_due(&mut self, now: Now, replica: &Replica) {
        let due = |link: &Link| !link.busy && link.news_at.is_some_and(|at| at <= now.mono);
        let links: Vec<LinkId> = self.links.iter().filter(|(_, l)| due(l)).map(|(id, _)| *id).collect();
        for id in links {
            self.push(now, replica, id);
        }
    }

    fn push(&mut self, now: Now, replica: &Replica, id: LinkId) {
        let link = self.links.get_mut(&id).expect("the caller found it");
        link.news_at = None;
        let runs = inline(link, replica);
        let have = announce(link, replica);
        if have.is_empty() && runs.is_empty() && link.greeted {
            return;
        }
        link.greeted = true;
        link.pushed_at = now.mono;
        link.busy = true;
        if link.sent < replica.own_seq() {
            link.news_at = Some(now.mono);
        }
        self.counts.pushes_sent += 1;
        self.counts.ops_sent += runs.iter().map(|run| u64::from(run.count)).sum::<u64>();
        self.send(id, Message::Push(Push { have, runs }));
    }

    /// The news lane of a link is free again.
    pub fn writable(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.busy = false;
        }
    }

    /// Offers again what is not known to have arrived.
    pub(super) fn tick(&mut self, now: Now, replica: &Replica) {
        self.tick_at = now.mono + self.settings.push_interval * 1_000;
        for link in self.links.values_mut() {
            let behind = replica.places().any(|actor| link.known(actor) < replica.state().seen(actor));
            let quiet = link.pushed_at + self.settings.push_interval * 500 <= now.mono;
            if behind && quiet {
                self.counts.reoffers += 1;
                link.offer(now);
            }
        }
    }

    /// Offers everything to one peer, or to all, now.
    pub fn push_now(&mut self, now: Now, only: Option<LinkId>) {
        for (id, link) in &mut self.links {
            if only.is_none_or(|only| only == *id) {
                link.offer(now);
            }
        }
    }

    pub(crate) fn on_push(&mut self, now: Now, replica: &mut Replica, from: LinkId, push: &Push) {
        self.counts.pushes_received += 1;
        self.receive(now, replica, from, &push.runs);
        self.absorb(replica, from, &push.have);
        self.want(now, replica, from, Source::Push(&push.have));
    }
}

/// Own ops that the peer has not been sent, if the log has them and they are not too many.
fn inline(link: &mut Link, replica: &Replica) -> Vec<Run> {
    let (own, last) = (replica.own(), replica.own_seq());
    link.sent = link.sent.max(link.known(own));
    let backlog = last.saturating_sub(link.sent);
    if backlog == 0 {
        return Vec::new();
    }
    let (runs, next) = if link.greeted && backlog <= INLINE_OPS {
        replica.log().read(own, link.sent + 1, last, bounds::INLINE, replica.state().actors())
    } else {
        (Vec::new(), link.sent + 1)
    };
    let size: usize = runs.iter().map(|run| run.ops.len()).sum();
    if runs.is_empty() || size > 2 * bounds::INLINE {
        // The peer is told of them, and pulls at its own pace.
        link.sent = last;
        return Vec::new();
    }
    link.sent = next - 1;
    runs
}

/// What we have and have not told the peer. Of own ops no more than what has
/// been sent, so that the peer does not ask for what is about to follow.
fn announce(link: &mut Link, replica: &Replica) -> SeenEntries {
    let mut have = Vec::new();
    for (actor, ix) in replica.state().actors().sorted() {
        let seen = replica.state().seen(ix);
        let seq = if ix == replica.own() { link.sent.min(seen) } else { seen };
        if seq > link.told.get(ix.index()).copied().unwrap_or(0) {
            have.push((actor, seq, ix));
        }
        if have.len() == bounds::ANNOUNCED {
            // The rest follows with the next push.
            link.news_at = Some(0);
            break;
        }
    }
    for (_, seq, ix) in &have {
        super::link::raise(&mut link.told, *ix, *seq);
    }
    SeenEntries::from_sorted(have.into_iter().map(|(actor, seq, _)| (actor, seq)))
}
