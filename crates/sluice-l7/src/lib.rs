//! HTTP on top of L4: parses a byte stream into requests, routes and filters them, and responds.
//!
//! Owns: route tables, HTTP filters, the life of a request, retries and time-outs, request records. Refuses to know:
//! the wire format of messages, the HTTP version they arrived in, and the text of the configuration. Keeps: every
//! request received is counted, responded to or given up for one reason, and leaves one record.
#![forbid(unsafe_code)]

pub mod affinity;
mod alt_svc;
pub mod attempts;
pub mod client_auth;
pub mod connection_filters;
pub mod connection_manager;
pub mod edge;
mod errors;
pub mod exchange;
pub mod expression;
mod failed_attempt;
pub mod filters;
pub mod form;
pub mod future_pool;
mod grpc_match;
pub mod handler;
pub mod header_values;
mod hop_count;
mod host_name;
pub mod http_origin;
pub mod hygiene;
pub mod identity;
pub mod in_flight;
pub mod json;
mod load_report;
pub mod local_replies;
pub mod metrics;
pub mod path_match;
mod path_value;
pub mod plan;
pub mod pools;
pub mod proxy_status;
pub mod reasons;
pub mod record;
pub mod reply;
mod retry;
mod retry_plan;
pub mod routes;
pub mod runtime;
pub mod side_calls;
mod task_pool;
pub mod template;
mod upstream_stream;
mod value_match;
pub mod words;
pub mod worker;

pub use filters::HttpFilters;
pub use http_origin::HttpOrigin;
pub use plan::HttpPlan;
pub use reply::Reply;
pub use routes::{RetryPlan, RetryWhen, RouteCell, RouteTable};
pub use runtime::Runtime;
pub use side_calls::redis::resp;
pub use side_calls::{
    GrpcCallError, GrpcConversation, GrpcMethod, GrpcRequest, GrpcStream, MetadataError,
    RawMessage, SideCallError, SideCalls, SideRequest, SideResponse,
};
