//! The two directions in which pieces pass filters.
//!
//! Owns: which hooks of a filter, which head and which deadline belong to a direction, and in which order filters see its
//! pieces. Refuses to know: how a piece passes. Keeps: requests pass filters in order, responses in reverse.

use std::task::{Context, Poll};

use sluice_codec::head_pool::PooledHead;
use sluice_codec::{Body, Head};
use sluice_core::Reason;

use super::PieceInFilters;
use crate::exchange::RequestTask;
use crate::exchange::deadlines::Deadline;
use crate::filters::{BodyAccess, Cx, HttpFilter, PieceStep};
use crate::reply::Reply;

/// A direction, and the hooks that belong to it.
pub(in crate::exchange) trait PieceHooks {
    /// What a filter ends the message with.
    type End: 'static;

    /// Bounds the time that a filter makes a piece wait.
    const DEADLINE: Deadline;

    /// Whether filters see the request's head beside the message.
    const SEES_REQUEST: bool;

    /// The head of the message.
    fn head(task: &mut RequestTask) -> &mut PooledHead;

    /// The piece that waits.
    fn waiting(task: &mut RequestTask) -> &mut Option<Box<PieceInFilters<Self::End>>>;

    /// The number of filters that pieces pass: those that have seen the head.
    fn reach(task: &RequestTask) -> usize;

    /// The index of the filter that comes after `passed` others, of `count` in all.
    fn index(passed: usize, count: usize) -> usize;

    fn access(filter: &dyn HttpFilter, cx: &Cx<'_>) -> BodyAccess;

    fn piece_max(filter: &dyn HttpFilter, cx: &Cx<'_>) -> usize;

    fn body(
        filter: &dyn HttpFilter,
        cx: &mut Cx<'_>,
        body: &mut Body,
        last: bool,
    ) -> PieceStep<Body, Self::End>;

    fn trailers(
        filter: &dyn HttpFilter,
        cx: &mut Cx<'_>,
        trailers: &mut Head,
    ) -> PieceStep<Head, Self::End>;

    /// Ready if the filter has something to add to the body.
    fn poll_addition(filter: &dyn HttpFilter, cx: &Cx<'_>, task: &mut Context<'_>) -> Poll<()>;
}

/// The request, from the client to the endpoint.
pub(in crate::exchange) struct RequestHooks;

impl PieceHooks for RequestHooks {
    type End = Box<Reply>;

    const DEADLINE: Deadline = Deadline::RequestFilter;
    const SEES_REQUEST: bool = false;

    fn head(task: &mut RequestTask) -> &mut PooledHead {
        &mut task.request
    }

    fn waiting(task: &mut RequestTask) -> &mut Option<Box<PieceInFilters<Self::End>>> {
        &mut task.waiting_upload
    }

    fn reach(task: &RequestTask) -> usize {
        task.entered
    }

    fn index(passed: usize, _count: usize) -> usize {
        passed
    }

    fn access(filter: &dyn HttpFilter, cx: &Cx<'_>) -> BodyAccess {
        filter.request_body_access(cx)
    }

    fn piece_max(filter: &dyn HttpFilter, cx: &Cx<'_>) -> usize {
        filter.request_piece_max(cx)
    }

    fn body(
        filter: &dyn HttpFilter,
        cx: &mut Cx<'_>,
        body: &mut Body,
        last: bool,
    ) -> PieceStep<Body, Self::End> {
        filter.request_body(cx, body, last)
    }

    fn trailers(
        filter: &dyn HttpFilter,
        cx: &mut Cx<'_>,
        trailers: &mut Head,
    ) -> PieceStep<Head, Self::End> {
        filter.request_trailers(cx, trailers)
    }

    fn poll_addition(filter: &dyn HttpFilter, cx: &Cx<'_>, task: &mut Context<'_>) -> Poll<()> {
        filter.poll_request_addition(cx, task)
    }
}

/// The response, in the reverse order of the filters.
pub(in crate::exchange) struct ResponseHooks;

impl PieceHooks for ResponseHooks {
    type End = Reason;

    const DEADLINE: Deadline = Deadline::ResponseFilter;
    const SEES_REQUEST: bool = true;

    fn head(task: &mut RequestTask) -> &mut PooledHead {
        &mut task.response
    }

    fn waiting(task: &mut RequestTask) -> &mut Option<Box<PieceInFilters<Self::End>>> {
        &mut task.waiting_download
    }

    fn reach(task: &RequestTask) -> usize {
        // A filter sees the body of a response on whose head it is deciding.
        task.entered - task.deciding.map_or(0, |filters| filters.get() - 1)
    }

    fn index(passed: usize, count: usize) -> usize {
        count - 1 - passed
    }

    fn access(filter: &dyn HttpFilter, cx: &Cx<'_>) -> BodyAccess {
        filter.response_body_access(cx)
    }

    fn piece_max(filter: &dyn HttpFilter, cx: &Cx<'_>) -> usize {
        filter.response_piece_max(cx)
    }

    fn body(
        filter: &dyn HttpFilter,
        cx: &mut Cx<'_>,
        body: &mut Body,
        last: bool,
    ) -> PieceStep<Body, Self::End> {
        filter.response_body(cx, body, last)
    }

    fn trailers(
        filter: &dyn HttpFilter,
        cx: &mut Cx<'_>,
        trailers: &mut Head,
    ) -> PieceStep<Head, Self::End> {
        filter.response_trailers(cx, trailers)
    }

    fn poll_addition(filter: &dyn HttpFilter, cx: &Cx<'_>, task: &mut Context<'_>) -> Poll<()> {
        filter.poll_response_addition(cx, task)
    }
}
