import { createBrowserRouter, Navigate, type RouteObject } from "react-router";
import { SetupPage } from "../account/sign_in";
import { SessionGate } from "./session";
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
  { path: "requests", lazy: () => import("../account/requests").then((page) => ({ Component: page.RequestsPage })) },
  { path: "usage", lazy: () => import("../account/usage").then((page) => ({ Component: page.UsagePage })) },
  { path: "bills", lazy: () => import("../account/bills").then((page) => ({ Component: page.BillsPage })) },
  { path: "limits", lazy: () => import("../account/limits").then((page) => ({ Component: page.LimitsPage })) },
  { path: "keys", lazy: () => import("../account/keys").then((page) => ({ Component: page.KeysPage })) },
  { path: "people", lazy: () => import("../account/people").then((page) => ({ Component: page.PeoplePage })) },
  { path: "workspaces", lazy: () => import("../account/workspaces").then((page) => ({ Component: page.WorkspacesPage })) },
  { path: "audit", lazy: () => import("../account/audit").then((page) => ({ Component: page.AuditPage })) },
  { path: "welcome", lazy: () => import("../account/welcome").then((page) => ({ Component: page.WelcomePage })) },
  { path: "account", lazy: () => import("../account/profile").then((page) => ({ Component: page.ProfilePage })) },
  { path: "settings", lazy: () => import("../account/settings").then((page) => ({ Component: page.SettingsPage })) },
  { path: "doctor", lazy: () => import("../account/health").then((page) => ({ Component: page.HealthPage })) },
];

export const router = createBrowserRouter([
  // The one page for somebody who has no account yet.
  { path: "/setup", element: <SetupPage />, errorElement: <Broken /> },
  // And one for somebody who needs none.
  { path: "/shared", lazy: () => import("../chat/shared").then((page) => ({ Component: page.SharedPage })), errorElement: <Broken />, hydrateFallbackElement: <></> },
  { element: <SessionGate><Shell /></SessionGate>, errorElement: <Broken />, hydrateFallbackElement: <></>, children: [...pages, { path: "*", element: <NotFound /> }] },
]);
