# The web application (apps/web) as a part of the binary: bundled by Vite, compressed, and embedded. Needs Node.js 20.19 or
# later with npm: the machine's, or the one that scripts/setup puts into build/node. Without it the server builds all the
# same, and says on its page that it has no application.

# tidepool_web_assets(<variable>): sets the variable to the source file that holds the application.
function(tidepool_web_assets variable)
  set(${variable} "${PROJECT_SOURCE_DIR}/src/gateway/web_assets_none.cc" PARENT_SCOPE)
  if(TIDEPOOL_WEB STREQUAL "OFF" OR TIDEPOOL_SANITIZE OR TIDEPOOL_FUZZ)
    return()
  endif()
  execute_process(COMMAND "${PROJECT_SOURCE_DIR}/scripts/build_web" --node OUTPUT_VARIABLE node
    ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE missing)
  if(missing)
    if(TIDEPOOL_WEB STREQUAL "ON")
      message(FATAL_ERROR "TIDEPOOL_WEB is ON, and there is no Node.js 20.19 or later with npm: run scripts/setup")
    endif()
    message(STATUS "No web application: there is no Node.js 20.19 or later with npm (scripts/setup installs one)")
    return()
  endif()
  message(STATUS "Web application: bundled with ${node}")
  set(web "${PROJECT_SOURCE_DIR}/apps/web")
  file(GLOB_RECURSE web_files CONFIGURE_DEPENDS "${web}/src/*" "${web}/public/*")
  list(FILTER web_files EXCLUDE REGEX "_test\\.tsx?$|/api/openapi\\.d\\.ts$")
  set(out "${CMAKE_BINARY_DIR}/web")
  add_custom_command(OUTPUT "${out}/web_assets.cc" "${out}/web_assets.bin"
    COMMAND "${PROJECT_SOURCE_DIR}/scripts/build_web" "${out}"
    DEPENDS ${web_files} "${PROJECT_SOURCE_DIR}/scripts/build_web" "${PROJECT_SOURCE_DIR}/api/openapi.json" "${web}/embed.mjs" "${web}/index.html"
      "${web}/package.json" "${web}/package-lock.json" "${web}/.npmrc" "${web}/vite.config.ts"
    COMMENT "Bundling the web application" VERBATIM)
  set_source_files_properties("${out}/web_assets.cc" PROPERTIES OBJECT_DEPENDS "${out}/web_assets.bin")
  set(${variable} "${out}/web_assets.cc" PARENT_SCOPE)
endfunction()
