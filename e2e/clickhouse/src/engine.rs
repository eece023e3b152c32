//! The engine's C library, loaded at run time, and nothing else: every `unsafe` block of this crate is here.
//!
//! ```text
//! Engine (loaded once, never unloaded) ── connect ──> Connection ── query ─────> Output
//!                                                         └──────── insert ────> Output
//! ```
//!
//! Invariants:
//! - The engine keeps one data directory per process, for as long as one connection is open. `Engine::open` opens it
//!   and hands out the connection that must outlive all others.
//! - A connection runs one statement at a time (its methods take `&mut self`), on any thread.
//! - Rows never travel inside a statement. The library splits a statement at each `;` before it looks at the data, so
//!   binary rows passed inline are cut short and the call still succeeds; the stream-insert calls take bytes apart.
//! - The library is never unloaded: its threads outlive the last connection.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fmt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use libloading::Library;

use crate::failure::{Code, Failure};

type ConnectionSlot = *mut *mut c_void;
type ResultHandle = *mut c_void;
type InsertHandle = *mut c_void;

/// The calls of `chdb.h` that are used, with the C declarations' types.
struct Calls {
    connect: unsafe extern "C" fn(c_int, *mut *mut c_char) -> ConnectionSlot,
    close: unsafe extern "C" fn(ConnectionSlot),
    query: unsafe extern "C" fn(
        *mut c_void,
        *const c_char,
        usize,
        *const c_char,
        usize,
        *const *const c_char,
        *const usize,
        *const *const c_char,
        *const usize,
        usize,
    ) -> ResultHandle,
    insert_open: unsafe extern "C" fn(
        *mut c_void,
        *const c_char,
        usize,
        *const c_char,
        usize,
        *const *const c_char,
        *const usize,
        *const *const c_char,
        *const usize,
        usize,
    ) -> InsertHandle,
    insert_append: unsafe extern "C" fn(InsertHandle, *const c_void, usize) -> c_int,
    insert_done: unsafe extern "C" fn(InsertHandle) -> ResultHandle,
    insert_error: unsafe extern "C" fn(InsertHandle) -> *const c_char,
    insert_destroy: unsafe extern "C" fn(InsertHandle),
    result_buffer: unsafe extern "C" fn(ResultHandle) -> *mut c_char,
    result_length: unsafe extern "C" fn(ResultHandle) -> usize,
    result_error: unsafe extern "C" fn(ResultHandle) -> *const c_char,
    result_rows: unsafe extern "C" fn(ResultHandle) -> u64,
    result_bytes: unsafe extern "C" fn(ResultHandle) -> u64,
    storage_rows_read: unsafe extern "C" fn(ResultHandle) -> u64,
    storage_bytes_read: unsafe extern "C" fn(ResultHandle) -> u64,
    rows_written: unsafe extern "C" fn(ResultHandle) -> u64,
    bytes_written: unsafe extern "C" fn(ResultHandle) -> u64,
    result_destroy: unsafe extern "C" fn(ResultHandle),
    classify: unsafe extern "C" fn(
        *mut c_void,
        *const c_char,
        usize,
        *const c_char,
        usize,
        *mut RawAnalysis,
    ) -> c_int,
    shutdown: unsafe extern "C" fn() -> c_int,
}

#[repr(C)]
struct RawAnalysis {
    struct_size: u32,
    statement_count: u32,
    flags: u32,
    query_class: u32,
}

/// The loaded library. Cheap to share; see the module's invariants.
pub(crate) struct Engine {
    calls: Calls,
    arguments: Vec<CString>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("arguments", &self.arguments)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Loads the library and starts the engine on `data`. The connection returned is the one to close last.
    pub(crate) fn open(library: &Path, data: &Path) -> Result<(Arc<Self>, Connection), String> {
        // SAFETY: loading runs the library's initialisers; it is the engine that the caller named, and it is leaked
        // below, so no code or data of it ever goes away under a running thread.
        let library = unsafe { Library::new(library) }
            .map_err(|error| format!("cannot load the engine {}: {error}", library.display()))?;
        let library: &'static Library = Box::leak(Box::new(library));
        let calls = Calls::find(library)?;
        // SAFETY: the declaration is `void chdb_set_signal_handlers_enabled(int)`, called before the first connect
        // as the header asks: this process handles its own signals.
        unsafe {
            let set: libloading::Symbol<'_, unsafe extern "C" fn(c_int)> = library
                .get(b"chdb_set_signal_handlers_enabled\0")
                .map_err(|error| format!("the engine lacks a call: {error}"))?;
            set(0);
        }
        let mut path = b"--path=".to_vec();
        path.extend_from_slice(data.as_os_str().as_encoded_bytes());
        let arguments = [b"clickhouse".to_vec(), path]
            .into_iter()
            .map(|argument| {
                CString::new(argument).map_err(|_| "the data directory's name holds a NUL byte".to_string())
            })
            .collect::<Result<_, _>>()?;
        let engine = Arc::new(Self { calls, arguments });
        let first = engine.connect().map_err(|failure| failure.to_string())?;
        Ok((engine, first))
    }

    /// A connection with settings, current database and temporary tables of its own. Costs about 0.3 ms.
    pub(crate) fn connect(self: &Arc<Self>) -> Result<Connection, Failure> {
        let mut argv: Vec<*mut c_char> = self.arguments.iter().map(|a| a.as_ptr().cast_mut()).collect();
        // SAFETY: argv holds as many valid C strings as argc says, alive during the call, which copies them.
        let slot = unsafe { (self.calls.connect)(argv.len() as c_int, argv.as_mut_ptr()) };
        match NonNull::new(slot) {
            Some(slot) => Ok(Connection {
                slot,
                engine: Arc::clone(self),
            }),
            None => Err(Failure::new(
                Code::CannotScheduleTask,
                "the engine does not open (its own message is on standard error)",
            )),
        }
    }

    /// Joins the engine's threads where it lets itself. Call it when every connection is closed. Version 26.7.2 refuses
    /// after any stream insert (it counts that stream's connection as open for good); leaving is clean nevertheless,
    /// because the last connection's close has stopped what writes.
    pub(crate) fn shutdown(&self) {
        // SAFETY: takes no argument, and refuses by itself while it counts a connection as open.
        unsafe { (self.calls.shutdown)() };
    }
}

impl Calls {
    fn find(library: &'static Library) -> Result<Self, String> {
        macro_rules! call {
            ($name:literal) => {{
                // SAFETY: the field's type repeats the declaration of the engine's header, version 26.7.3.
                let symbol = unsafe { library.get(concat!($name, "\0").as_bytes()) };
                *symbol.map_err(|error| format!("the engine lacks the call {}: {error}", $name))?
            }};
        }
        Ok(Self {
            connect: call!("chdb_connect"),
            close: call!("chdb_close_conn"),
            query: call!("chdb_query_with_params_n"),
            insert_open: call!("chdb_stream_insert_with_params_n"),
            insert_append: call!("chdb_stream_append"),
            insert_done: call!("chdb_stream_done"),
            insert_error: call!("chdb_stream_insert_error"),
            insert_destroy: call!("chdb_destroy_insert_stream"),
            result_buffer: call!("chdb_result_buffer"),
            result_length: call!("chdb_result_length"),
            result_error: call!("chdb_result_error"),
            result_rows: call!("chdb_result_rows_read"),
            result_bytes: call!("chdb_result_bytes_read"),
            storage_rows_read: call!("chdb_result_storage_rows_read"),
            storage_bytes_read: call!("chdb_result_storage_bytes_read"),
            rows_written: call!("chdb_result_rows_written"),
            bytes_written: call!("chdb_result_bytes_written"),
            result_destroy: call!("chdb_destroy_query_result"),
            classify: call!("chdb_classify_query_n"),
            shutdown: call!("chdb_shutdown"),
        })
    }

    /// Copies what a result holds and destroys it.
    fn take(&self, handle: ResultHandle) -> Result<Output, Failure> {
        if handle.is_null() {
            return Err(Failure::new(Code::LogicalError, "the engine gave no result"));
        }
        let calls = self;
        // SAFETY: the handle is a result that nobody else holds. Its error and its buffer are copied before it is
        // destroyed, exactly once; a buffer has `length` bytes.
        unsafe {
            let outcome = match text((calls.result_error)(handle)) {
                Some(message) => Err(Failure::from_engine(message)),
                None => {
                    let (buffer, length) = ((calls.result_buffer)(handle), (calls.result_length)(handle));
                    let data = if buffer.is_null() || length == 0 {
                        Vec::new()
                    } else {
                        std::slice::from_raw_parts(buffer.cast::<u8>(), length).to_vec()
                    };
                    Ok(Output {
                        data,
                        result_rows: (calls.result_rows)(handle),
                        result_bytes: (calls.result_bytes)(handle),
                        rows_read: (calls.storage_rows_read)(handle),
                        bytes_read: (calls.storage_bytes_read)(handle),
                        rows_written: (calls.rows_written)(handle),
                        bytes_written: (calls.bytes_written)(handle),
                    })
                }
            };
            (calls.result_destroy)(handle);
            outcome
        }
    }
}

/// What a statement gave: its result in the asked format, and what it read and wrote.
#[derive(Debug, Default, Clone)]
pub(crate) struct Output {
    pub(crate) data: Vec<u8>,
    pub(crate) result_rows: u64,
    pub(crate) result_bytes: u64,
    pub(crate) rows_read: u64,
    pub(crate) bytes_read: u64,
    pub(crate) rows_written: u64,
    pub(crate) bytes_written: u64,
}

/// What the engine's own parser says a text would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Analysis {
    /// Zero when the text does not parse.
    pub(crate) statements: u32,
    /// Leaves no trace: SELECT, SHOW, DESCRIBE, EXPLAIN, EXISTS.
    pub(crate) read_only: bool,
}

/// One connection to the engine, closed when dropped.
pub(crate) struct Connection {
    slot: NonNull<*mut c_void>,
    engine: Arc<Engine>,
}

// SAFETY: the library allows a connection to be used from any thread, one call at a time; every method that calls into
// the library takes `&mut self`.
unsafe impl Send for Connection {}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

impl Connection {
    /// Runs a statement that carries no rows. `format` is what the result comes in unless the statement names one.
    pub(crate) fn query(
        &mut self,
        sql: &[u8],
        format: &str,
        params: &[(String, String)],
    ) -> Result<Output, Failure> {
        let bound = Bound::new(params);
        // SAFETY: every pointer is paired with its own length and outlives the call, which copies what it keeps; the
        // handle is that of an open connection.
        let handle = unsafe {
            (self.engine.calls.query)(
                self.handle(),
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
                bound.names.as_ptr(),
                bound.name_lengths.as_ptr(),
                bound.values.as_ptr(),
                bound.value_lengths.as_ptr(),
                params.len(),
            )
        };
        self.engine.calls.take(handle)
    }

    /// Stores `chunks`, rows in `format`, by an INSERT without FORMAT and without data. On an error nothing more is
    /// sent; blocks that the engine has already written stay, as in the server.
    pub(crate) fn insert(
        &mut self,
        sql: &[u8],
        format: &str,
        params: &[(String, String)],
        chunks: &[bytes::Bytes],
    ) -> Result<Output, Failure> {
        let bound = Bound::new(params);
        // SAFETY: as in `query`. The handle is never null and is destroyed by `Stream`'s drop on every path.
        let stream = unsafe {
            Stream {
                handle: (self.engine.calls.insert_open)(
                    self.handle(),
                    sql.as_ptr().cast(),
                    sql.len(),
                    format.as_ptr().cast(),
                    format.len(),
                    bound.names.as_ptr(),
                    bound.name_lengths.as_ptr(),
                    bound.values.as_ptr(),
                    bound.value_lengths.as_ptr(),
                    params.len(),
                ),
                calls: &self.engine.calls,
            }
        };
        stream.check()?;
        for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
            // SAFETY: the stream is open, and the bytes are copied before the call returns.
            let state =
                unsafe { (stream.calls.insert_append)(stream.handle, chunk.as_ptr().cast(), chunk.len()) };
            if state != 0 {
                stream.check()?;
                return Err(Failure::new(
                    Code::LogicalError,
                    "the engine takes no more data and does not say why",
                ));
            }
        }
        // SAFETY: the stream is open; `take` destroys the result.
        let handle = unsafe { (stream.calls.insert_done)(stream.handle) };
        stream.calls.take(handle)
    }

    /// Asks the engine's parser what a text would do, without running it.
    pub(crate) fn classify(&mut self, sql: &[u8]) -> Analysis {
        let mut raw = RawAnalysis {
            struct_size: size_of::<RawAnalysis>() as u32,
            statement_count: 0,
            flags: 0,
            query_class: 4,
        };
        // SAFETY: `raw` says its own size and outlives the call; no target database is given.
        let state = unsafe {
            (self.engine.calls.classify)(
                self.handle(),
                sql.as_ptr().cast(),
                sql.len(),
                std::ptr::null(),
                0,
                &raw mut raw,
            )
        };
        if state != 0 {
            return Analysis {
                statements: 0,
                read_only: false,
            };
        }
        Analysis {
            statements: raw.statement_count,
            read_only: raw.query_class == 0,
        }
    }

    fn handle(&mut self) -> *mut c_void {
        // SAFETY: the slot comes from connect, is closed only by drop, and holds the connection's handle.
        unsafe { *self.slot.as_ptr() }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: the slot came from connect and is closed only here.
        unsafe { (self.engine.calls.close)(self.slot.as_ptr()) }
    }
}

struct Stream<'a> {
    handle: InsertHandle,
    calls: &'a Calls,
}

impl Stream<'_> {
    fn check(&self) -> Result<(), Failure> {
        // SAFETY: the handle is open; the text is copied before another call.
        match unsafe { text((self.calls.insert_error)(self.handle)) } {
            Some(message) => Err(Failure::from_engine(message)),
            None => Ok(()),
        }
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        // SAFETY: destroyed exactly once; the library cancels a stream that was not finished.
        unsafe { (self.calls.insert_destroy)(self.handle) }
    }
}

/// # Safety
/// `pointer` is null or a C string that stays valid during the call.
unsafe fn text(pointer: *const c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    let message = unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned();
    (!message.is_empty()).then_some(message)
}

/// Query parameters in the shape of the C call: pointers and lengths that borrow from the pairs.
struct Bound {
    names: Vec<*const c_char>,
    name_lengths: Vec<usize>,
    values: Vec<*const c_char>,
    value_lengths: Vec<usize>,
}

impl Bound {
    fn new(params: &[(String, String)]) -> Self {
        Self {
            names: params.iter().map(|(name, _)| name.as_ptr().cast()).collect(),
            name_lengths: params.iter().map(|(name, _)| name.len()).collect(),
            values: params.iter().map(|(_, value)| value.as_ptr().cast()).collect(),
            value_lengths: params.iter().map(|(_, value)| value.len()).collect(),
        }
    }
}
