import { createBrowserRouter, Navigate, type RouteObject } from "react-router";
import { Shell } from "./shell";
import { Broken, NotFound } from "./not_found";

// A page is loaded when it is visited. Chat comes with the first load: it is what most people open.
const pages: RouteObject[] = [
  { index: true, element: <Navigate to="/chat" replace /> },
  { path: "chat/:id?", lazy: () => import("../chat/page").then((page) => ({ Component: page.ChatPage })) },
  { path: "compare", lazy: () => import("../chat/compare").then((page) => ({ Component: page.ComparePage })) },
  { path: "overview", lazy: () => import("../overview/page").then((page) => ({ Component: page.OverviewPage })) },
  { path: "models", lazy: () => import("../models/page").then((page) => ({ Component: page.ModelsPage })) },
  { path: "models/*", lazy: () => import("../models/model").then((page) => ({ Component: page.ModelPage })) },
  { path: "playground", lazy: () => import("../playground/page").then((page) => ({ Component: page.PlaygroundPage })) },
  { path: "pool", lazy: () => import("../pool/page").then((page) => ({ Component: page.PoolPage })) },
  { path: "planner", lazy: () => import("../pool/planner").then((page) => ({ Component: page.PlannerPage })) },
  { path: "settings", lazy: () => import("../account/settings").then((page) => ({ Component: page.SettingsPage })) },
  { path: "health", lazy: () => import("../account/health").then((page) => ({ Component: page.HealthPage })) },
];

export const router = createBrowserRouter([
  { element: <Shell />, errorElement: <Broken />, hydrateFallbackElement: <></>, children: [...pages, { path: "*", element: <NotFound /> }] },
]);
