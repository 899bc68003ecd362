//! The socket: who may open it, and what becomes of one that was left behind.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, SockAddr, Type};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::{CONNECTIONS, routes};
use crate::http::Bounded;
use crate::node::api::Operator;

/// After this a connection on which nothing moves is closed. Long, for a round of sync may be silent for a while.
const IDLE: Duration = Duration::from_secs(600);
/// How long requests under way may go on when the node stops.
const GRACE: Duration = Duration::from_secs(2);

/// Why there is no admin socket. Whatever was at its path is still there.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A process answers there.
    #[error("admin socket {}: another process listens there already", .0.display())]
    InUse(PathBuf),
    /// Something else has that name.
    #[error("admin socket {}: there is something that is no socket, and it is left alone", .0.display())]
    NotASocket(PathBuf),
    /// The operating system refused.
    #[error("admin socket {}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The admin socket, listening and not yet served.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Socket {
    /// Binds the socket with mode 0600. Must be called within a tokio runtime.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        refuse_taken(path)?;
        let bound = bind_privately(path);
        let (listener, inode) = bound.map_err(|source| BindError::Io { path: path.to_owned(), source })?;
        Ok(Self { listener, path: path.to_owned(), inode })
    }

    /// Answers until `stop`, then removes the socket.
    pub async fn serve(self, operator: Arc<dyn Operator>, stop: CancellationToken) {
        let Self { listener, path, inode } = self;
        let listener = Bounded::new(listener, CONNECTIONS, IDLE);
        let served = axum::serve(listener, routes::router(operator))
            .with_graceful_shutdown(stop.clone().cancelled_owned())
            .into_future();
        tokio::select! {
            _ = served => {}
            () = async { stop.cancelled().await; tokio::time::sleep(GRACE).await } => {}
        }
        // A successor may have put its own socket there.
        if fs::symlink_metadata(&path).is_ok_and(|found| found.ino() == inode) {
            let _ = fs::remove_file(&path);
        }
    }
}

fn refuse_taken(path: &Path) -> Result<(), BindError> {
    let io = |source| BindError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io(error)),
        Ok(found) if !found.file_type().is_socket() => Err(BindError::NotASocket(path.to_owned())),
        Ok(_) => match net::UnixStream::connect(path) {
            Ok(_) => Err(BindError::InUse(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => Err(io(error)),
        },
    }
}

/// Binds under another name, sets the mode before anybody could connect, and only then takes the name: there is no
/// moment at which others could open it, and none without a socket when one is replaced.
fn bind_privately(path: &Path) -> io::Result<(UnixListener, u64)> {
    let temporary = path.with_file_name(format!(".a{:06x}", rand::random::<u32>() & 0xff_ffff));
    let address = SockAddr::unix(&temporary).map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidInput, "the path is too long for a socket (about 100 bytes)")
    })?;
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&address)?;
    let finished = (|| {
        fs::set_permissions(&temporary, Permissions::from_mode(0o600))?;
        socket.listen(128)?;
        socket.set_nonblocking(true)?;
        let inode = fs::symlink_metadata(&temporary)?.ino();
        fs::rename(&temporary, path)?;
        Ok(inode)
    })();
    match finished {
        Ok(inode) => Ok((UnixListener::from_std(net::UnixListener::from(socket))?, inode)),
        Err(error) => {
            let _ = fs::remove_file(&temporary);
            Err(error)
        }
    }
}
