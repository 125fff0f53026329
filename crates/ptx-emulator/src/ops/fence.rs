//! `fence`, `membar` (PTX ISA 9.7.13.4): memory here is sequentially consistent, so that they act on the
//! checkers only.

use super::hooks::{self, ProxyFence, ProxySpace, Scope, Semantics};
use super::{Entry, form, root};
use crate::check::Class;
use crate::decode::{Addr, Decoder, Execute, Op, Result};
use crate::machine::{AddressSpace, Ctx, Flow, Location};

pub(super) const TABLE: &[Entry] = &[
    form("fence", &["proxy", "async"], decode_proxy_async),
    form("fence", &["proxy", "alias"], decode_proxy_alias),
    form("fence", &["proxy", "tensormap::generic"], decode_proxy_tensormap),
    form("fence", &["proxy", "async::generic"], decode_proxy_restricted),
    form("fence", &["mbarrier_init"], decode_mbarrier_init),
    root("fence", decode_fence),
    form("membar", &["proxy", "alias"], decode_proxy_alias),
    root("membar", decode_membar),
];

struct Fence {
    semantics: Semantics,
    scope: Scope,
}

impl Execute for Fence {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        for lane in ctx.lanes() {
            hooks::fence(ctx, lane, self.semantics, self.scope);
        }
        Flow::Next
    }
}

struct Proxy(ProxyFence);

impl Execute for Proxy {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        for lane in ctx.lanes() {
            hooks::proxy_fence(ctx, lane, self.0);
        }
        Flow::Next
    }
}

struct TensorMapAcquire {
    addr: Addr,
    scope: Scope,
}

impl Execute for TensorMapAcquire {
    fn execute(&self, ctx: &mut Ctx<'_>) -> Flow {
        for lane in ctx.lanes() {
            match ctx.locate(AddressSpace::Generic, self.addr, lane) {
                Some(Location::Global(address)) => {
                    if address % 128 != 0 {
                        let message = format!("tensor map at {address:#x} is not 128-byte aligned");
                        ctx.finding(Class::Misaligned, lane, message, None);
                    }
                    hooks::proxy_fence(ctx, lane, ProxyFence::TensorMapAcquire(self.scope, address));
                }
                Some(_) => {
                    let message = "the tensor map of a tensormap proxy fence is not in global memory";
                    ctx.finding(Class::TensorMap, lane, message.to_owned(), None);
                }
                None => {}
            }
        }
        Flow::Next
    }
}

const SCOPES: &[(&str, Scope)] =
    &[("cta", Scope::Cta), ("cluster", Scope::Cluster), ("gpu", Scope::Gpu), ("sys", Scope::Sys)];

/// `fence{.sem}.scope`, `fence.{acquire,release}.sync_restrict::space.cluster`.
fn decode_fence(d: &mut Decoder<'_>) -> Result<Op> {
    let semantics = d
        .take_one(&[
            ("acq_rel", Semantics::AcqRel),
            ("sc", Semantics::Sc),
            ("acquire", Semantics::Acquire),
            ("release", Semantics::Release),
        ])
        .unwrap_or(Semantics::AcqRel);
    let restricted = match semantics {
        Semantics::Acquire => {
            d.take("sync_restrict::shared::cluster").then_some(Semantics::AcquireRestricted)
        }
        Semantics::Release => d.take("sync_restrict::shared::cta").then_some(Semantics::ReleaseRestricted),
        _ => None,
    };
    let scope = d.need_one("a scope", if restricted.is_some() { &SCOPES[1..2] } else { SCOPES })?;
    d.finish(0)?;
    Ok(Box::new(Fence { semantics: restricted.unwrap_or(semantics), scope }))
}

/// `membar.{cta,gl,sys}`: `fence.sc` since sm_70.
fn decode_membar(d: &mut Decoder<'_>) -> Result<Op> {
    let scope = d.need_one("a level", &[("cta", Scope::Cta), ("gl", Scope::Gpu), ("sys", Scope::Sys)])?;
    d.finish(0)?;
    Ok(Box::new(Fence { semantics: Semantics::Sc, scope }))
}

/// `fence.mbarrier_init.release.cluster`.
fn decode_mbarrier_init(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("mbarrier_init");
    d.need_one(".release", &[("release", ())])?;
    d.need_one(".cluster", &[("cluster", ())])?;
    d.finish(0)?;
    Ok(Box::new(Fence { semantics: Semantics::MbarrierInit, scope: Scope::Cluster }))
}

/// `fence.proxy.async{.global,.shared::cta,.shared::cluster}`.
fn decode_proxy_async(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("proxy");
    d.take("async");
    let space = d
        .take_one(&[
            ("global", ProxySpace::Global),
            ("shared::cta", ProxySpace::SharedCta),
            ("shared::cluster", ProxySpace::SharedCluster),
        ])
        .unwrap_or(ProxySpace::All);
    d.finish(0)?;
    Ok(Box::new(Proxy(ProxyFence::Async(space))))
}

/// `{fence,membar}.proxy.alias`.
fn decode_proxy_alias(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("proxy");
    d.take("alias");
    d.finish(0)?;
    Ok(Box::new(Proxy(ProxyFence::Alias)))
}

/// `fence.proxy.tensormap::generic.{release.scope, acquire.scope [addr], 128}`.
fn decode_proxy_tensormap(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("proxy");
    d.take("tensormap::generic");
    let acquire = d.need_one("acquire or release", &[("acquire", true), ("release", false)])?;
    let scope = d.need_one("a scope", SCOPES)?;
    if !acquire {
        d.finish(0)?;
        return Ok(Box::new(Proxy(ProxyFence::TensorMapRelease(scope))));
    }
    let addr = d.addr(0)?;
    if d.imm(1)? != 128 {
        return d.error("the size must be 128");
    }
    d.finish(2)?;
    Ok(Box::new(TensorMapAcquire { addr, scope }))
}

/// `fence.proxy.async::generic.acquire.sync_restrict::shared::cluster.cluster` and
/// `.release.sync_restrict::shared::cta.cluster`.
fn decode_proxy_restricted(d: &mut Decoder<'_>) -> Result<Op> {
    d.take("proxy");
    d.take("async::generic");
    d.need_one(".cluster", &[("cluster", ())])?;
    let fence = match d.take("acquire") {
        true => {
            d.need_one("sync_restrict", &[("sync_restrict::shared::cluster", ())])?;
            ProxyFence::AsyncGenericAcquire
        }
        false => {
            d.need_one("acquire or release", &[("release", ())])?;
            d.need_one("sync_restrict", &[("sync_restrict::shared::cta", ())])?;
            ProxyFence::AsyncGenericRelease
        }
    };
    d.finish(0)?;
    Ok(Box::new(Proxy(fence)))
}
