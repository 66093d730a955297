//! How requests and connections are carried to instances.

/// How the connections of an upstream are carried; the words are Consul's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Protocol {
    /// Calls of gRPC as HTTP/2, other requests as HTTP/1.1, also where the app speaks HTTP/2; all of them as HTTP/2 where the registry
    /// says so of the instance.
    #[default]
    Auto,
    /// As HTTP/1.1.
    Http,
    /// As HTTP/2, but for a switch to another protocol.
    Http2,
    /// As `http2`, of a service that takes gRPC.
    Grpc,
    /// As bytes both ways: its listener makes one connection to an instance for each connection of the app.
    Tcp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Auto, Self::Http, Self::Http2, Self::Grpc, Self::Tcp];

    /// Its name in a settings file and on a page.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}
